"""Words and sentences of generated pages, in five languages.

Each fifth word of a list is held out: it stands on pages of test seeds alone.
"""

from __future__ import annotations

__all__ = [
    "ACTIONS",
    "FIELDS",
    "ICON_NAMES",
    "LANGUAGES",
    "PEOPLE",
    "SENTENCES",
    "SWITCHES",
    "THINGS",
    "TOPICS",
]

LANGUAGES = ("en", "de", "it", "es", "fr")


def _lists(**told: str) -> dict[str, tuple[str, ...]]:
    return {language: tuple(words.split("|")) for language, words in told.items()}


ACTIONS = _lists(
    en="Save|Open|Close|Send|Print|Copy|Delete|Share|Search|Start|Stop|Pause|Continue|Back|Next|"
    "Help|Undo|Repeat|Rename|Export|Import|Upload|Download|Sign in|Sign out|Register|Order|Pay|"
    "Compare|Reply|Forward|Archive|Follow|Subscribe|Refresh",
    de="Speichern|Öffnen|Schließen|Senden|Drucken|Kopieren|Löschen|Teilen|Suchen|Starten|Stoppen|"
    "Pause|Fortsetzen|Zurück|Weiter|Hilfe|Rückgängig|Wiederholen|Umbenennen|Ausgeben|Einlesen|"
    "Hochladen|Herunterladen|Anmelden|Abmelden|Registrieren|Bestellen|Bezahlen|Vergleichen|"
    "Antworten|Weiterleiten|Ablegen|Folgen|Abonnieren|Aktualisieren",
    it="Salva|Apri|Chiudi|Invia|Stampa|Copia|Elimina|Condividi|Cerca|Avvia|Ferma|Pausa|Continua|"
    "Indietro|Avanti|Aiuto|Annulla|Ripeti|Rinomina|Esporta|Importa|Carica|Scarica|Accedi|Esci|"
    "Registrati|Ordina|Paga|Confronta|Rispondi|Inoltra|Archivia|Segui|Abbonati|Aggiorna",
    es="Guardar|Abrir|Cerrar|Enviar|Imprimir|Copiar|Borrar|Compartir|Buscar|Iniciar|Detener|Pausa|"
    "Continuar|Atrás|Siguiente|Ayuda|Deshacer|Repetir|Renombrar|Exportar|Importar|Subir|Bajar|"
    "Entrar|Salir|Registrarse|Pedir|Pagar|Comparar|Responder|Reenviar|Archivar|Seguir|Suscribirse|"
    "Actualizar",
    fr="Enregistrer|Ouvrir|Fermer|Envoyer|Imprimer|Copier|Supprimer|Partager|Chercher|Lancer|"
    "Arrêter|Pause|Continuer|Retour|Suivant|Aide|Annuler|Répéter|Renommer|Exporter|Importer|"
    "Déposer|Récupérer|Connexion|Quitter|Inscription|Commander|Payer|Comparer|Répondre|Transférer|"
    "Archiver|Suivre|Abonner|Actualiser",
)

THINGS = _lists(
    en="Lamp|Chair|Table|Bread|Cheese|Apple|Pear|Coat|Shirt|Hat|Bottle|Glass|Knife|Spoon|Book|"
    "Pencil|Paper|Clock|Radio|Mirror|Carpet|Pillow|Bicycle|Umbrella|Ladder|Bucket|Hammer|Guitar|"
    "Flower|Candle",
    de="Lampe|Stuhl|Tisch|Brot|Käse|Apfel|Birne|Mantel|Hemd|Hut|Flasche|Glas|Messer|Löffel|Buch|"
    "Bleistift|Papier|Uhr|Radio|Spiegel|Teppich|Kissen|Fahrrad|Schirm|Leiter|Eimer|Hammer|Gitarre|"
    "Blume|Kerze",
    it="Lampada|Sedia|Tavolo|Pane|Formaggio|Mela|Pera|Cappotto|Camicia|Cappello|Bottiglia|"
    "Bicchiere|Coltello|Cucchiaio|Libro|Matita|Carta|Orologio|Radio|Specchio|Tappeto|Cuscino|"
    "Bicicletta|Ombrello|Scala|Secchio|Martello|Chitarra|Fiore|Candela",
    es="Lámpara|Silla|Mesa|Pan|Queso|Manzana|Pera|Abrigo|Camisa|Sombrero|Botella|Vaso|Cuchillo|"
    "Cuchara|Libro|Lápiz|Papel|Reloj|Radio|Espejo|Alfombra|Cojín|Bicicleta|Paraguas|Escalera|Cubo|"
    "Martillo|Guitarra|Flor|Vela",
    fr="Lampe|Chaise|Table|Pain|Fromage|Pomme|Poire|Manteau|Chemise|Chapeau|Bouteille|Verre|"
    "Couteau|Cuillère|Livre|Crayon|Papier|Horloge|Radio|Miroir|Tapis|Coussin|Vélo|Parapluie|"
    "Échelle|Seau|Marteau|Guitare|Fleur|Bougie",
)

TOPICS = _lists(
    en="Home|News|Details|Prices|Photos|Reviews|Contact|Team|Profile|Files",
    de="Start|Neues|Details|Preise|Fotos|Urteile|Kontakt|Team|Profil|Dateien",
    it="Inizio|Novità|Dettagli|Prezzi|Foto|Giudizi|Contatti|Gruppo|Profilo|File",
    es="Inicio|Noticias|Detalles|Precios|Fotos|Opiniones|Contacto|Equipo|Perfil|Archivos",
    fr="Accueil|Infos|Détails|Prix|Photos|Avis|Contact|Équipe|Profil|Fichiers",
)

FIELDS = _lists(
    en="Name|City|Street|Phone|Company|Title|Note|Code|Country|Job",
    de="Name|Ort|Straße|Telefon|Firma|Titel|Notiz|Code|Land|Beruf",
    it="Nome|Città|Via|Telefono|Ditta|Titolo|Nota|Codice|Paese|Lavoro",
    es="Nombre|Ciudad|Calle|Teléfono|Empresa|Título|Nota|Código|País|Trabajo",
    fr="Nom|Ville|Rue|Téléphone|Société|Titre|Note|Code|Pays|Métier",
)

SWITCHES = _lists(
    en="Sound|Wi-Fi|Night mode|Location|Alerts|Backup|Camera|Sync|Updates|Tips",
    de="Ton|WLAN|Nachtmodus|Standort|Hinweise|Sicherung|Kamera|Abgleich|Updates|Tipps",
    it="Suono|Wi-Fi|Notte|Posizione|Avvisi|Copie|Fotocamera|Sincronia|Novità|Consigli",
    es="Sonido|Wi-Fi|Noche|Ubicación|Avisos|Copias|Cámara|Sincronía|Novedades|Consejos",
    fr="Son|Wi-Fi|Nuit|Position|Alertes|Copies|Caméra|Synchro|Nouveautés|Conseils",
)

ICON_NAMES = _lists(
    en="plus|minus|cross|tick|left|right|up|down|search|bin|house|star|letter|lock|clock|"
    "folder|play|pause|person|menu",
    de="Plus|Minus|Kreuz|Haken|links|rechts|hoch|runter|Suche|Papierkorb|Haus|Stern|Brief|"
    "Schloss|Uhr|Ordner|Abspielen|Pause|Person|Menü",
    it="più|meno|croce|spunta|sinistra|destra|su|giù|ricerca|cestino|casa|stella|lettera|"
    "lucchetto|orologio|cartella|avvio|pausa|persona|menu",
    es="más|menos|cruz|visto|izquierda|derecha|arriba|abajo|búsqueda|papelera|casa|estrella|"
    "carta|candado|reloj|carpeta|reproducir|pausa|persona|menú",
    fr="plus|moins|croix|coche|gauche|droite|haut|bas|recherche|corbeille|maison|étoile|"
    "lettre|cadenas|horloge|dossier|lecture|pause|personne|menu",
)
"""In the order of `ICONS`."""

PEOPLE = (
    "Anna", "Bruno", "Carla", "Dario", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas",
    "Karin", "Luca", "Marta", "Nils", "Olga", "Paolo", "Rosa", "Stefan", "Tina", "Ugo", "Vera",
    "Walter", "Yara", "Zeno", "Alba", "Boris", "Clara", "David", "Emma", "Franco", "Gina",
    "Henri", "Iris", "Jorge", "Katja", "Leo", "Mona", "Nora", "Oscar", "Petra",
)  # fmt: skip

SENTENCES: dict[str, dict[str, str]] = {
    "button": {
        "en": 'Click the button "{a}".', "de": 'Klicke auf den Knopf "{a}".',
        "it": 'Premi il pulsante "{a}".', "es": 'Pulsa el botón "{a}".',
        "fr": 'Clique sur le bouton "{a}".',
    },
    "link": {
        "en": 'Follow the link "{a}".', "de": 'Folge dem Link "{a}".',
        "it": 'Segui il link "{a}".', "es": 'Sigue el enlace "{a}".', "fr": 'Suis le lien "{a}".',
    },
    "icon": {
        "en": "Click the icon: {a}.", "de": "Klicke auf das Symbol: {a}.",
        "it": "Premi l'icona: {a}.", "es": "Pulsa el icono: {a}.",
        "fr": "Clique sur l'icône : {a}.",
    },
    "cell": {
        "en": "Click the price of {a}.", "de": "Klicke auf den Preis von {a}.",
        "it": "Clicca sul prezzo di {a}.", "es": "Pulsa el precio de {a}.",
        "fr": "Clique sur le prix de {a}.",
    },
    "cheapest": {
        "en": "Click the name of the cheapest thing.",
        "de": "Klicke auf den Namen des billigsten Dings.",
        "it": "Clicca sul nome della cosa meno cara.",
        "es": "Pulsa el nombre de la cosa más barata.",
        "fr": "Clique sur le nom de la chose la moins chère.",
    },
    "sort": {
        "en": 'Sort by "{a}", then click the first row.',
        "de": 'Sortiere nach "{a}", dann klicke auf die erste Zeile.',
        "it": 'Ordina per "{a}", poi clicca sulla prima riga.',
        "es": 'Ordena por "{a}" y pulsa la primera fila.',
        "fr": 'Trie par "{a}", puis clique sur la première ligne.',
    },
    "dialog": {
        "en": 'Open the dialog with "{a}" and answer "{b}".',
        "de": 'Öffne den Dialog mit "{a}" und antworte "{b}".',
        "it": 'Apri la finestra con "{a}" e rispondi "{b}".',
        "es": 'Abre el diálogo con "{a}" y responde "{b}".',
        "fr": 'Ouvre la fenêtre avec "{a}" et réponds "{b}".',
    },
    "answer": {
        "en": 'Answer the question with "{a}".', "de": 'Beantworte die Frage mit "{a}".',
        "it": 'Rispondi alla domanda con "{a}".', "es": 'Responde a la pregunta con "{a}".',
        "fr": 'Réponds à la question par "{a}".',
    },
    "tab": {
        "en": 'Under "{a}", click "{b}".', "de": 'Klicke unter "{a}" auf "{b}".',
        "it": 'Sotto "{a}" clicca su "{b}".', "es": 'En "{a}", pulsa "{b}".',
        "fr": 'Sous "{a}", clique sur "{b}".',
    },
    "menu": {
        "en": 'Choose "{b}" in the menu "{a}".', "de": 'Wähle "{b}" im Menü "{a}".',
        "it": 'Scegli "{b}" nel menu "{a}".', "es": 'Elige "{b}" en el menú "{a}".',
        "fr": 'Choisis "{b}" dans le menu "{a}".',
    },
    "find": {
        "en": 'Find "{a}" in the list and click it.',
        "de": 'Finde "{a}" in der Liste und klicke es an.',
        "it": 'Trova "{a}" nella lista e cliccalo.', "es": 'Busca "{a}" en la lista y púlsalo.',
        "fr": 'Trouve "{a}" dans la liste et clique dessus.',
    },
    "fields": {
        "en": 'Enter {a}, then press "{b}".', "de": 'Gib {a} ein, dann drücke "{b}".',
        "it": 'Inserisci {a}, poi premi "{b}".', "es": 'Escribe {a} y pulsa "{b}".',
        "fr": 'Saisis {a}, puis appuie sur "{b}".',
    },
    "ticks": {
        "en": 'Select {a}, then press "{b}".', "de": 'Wähle {a}, dann drücke "{b}".',
        "it": 'Seleziona {a}, poi premi "{b}".', "es": 'Marca {a} y pulsa "{b}".',
        "fr": 'Coche {a}, puis appuie sur "{b}".',
    },
    "on": {
        "en": 'Switch on {a} alone, then press "{b}".',
        "de": 'Schalte nur {a} ein, dann drücke "{b}".',
        "it": 'Attiva solo {a}, poi premi "{b}".', "es": 'Activa solo {a} y pulsa "{b}".',
        "fr": 'Active seulement {a}, puis appuie sur "{b}".',
    },
    "slider": {
        "en": 'Set {a} to {n}, then press "{b}".', "de": 'Stelle {a} auf {n}, dann drücke "{b}".',
        "it": 'Porta {a} a {n}, poi premi "{b}".', "es": 'Pon {a} en {n} y pulsa "{b}".',
        "fr": 'Règle {a} sur {n}, puis appuie sur "{b}".',
    },
    "cart": {
        "en": 'Order {n} x {a}, then press "{b}".', "de": 'Bestelle {n} x {a}, dann drücke "{b}".',
        "it": 'Ordina {n} x {a}, poi premi "{b}".', "es": 'Pide {n} x {a} y pulsa "{b}".',
        "fr": 'Commande {n} x {a}, puis appuie sur "{b}".',
    },
}  # fmt: skip
"""What is to be done, by the kind of exercise and the language."""
