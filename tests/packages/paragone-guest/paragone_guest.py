"""A package of someone else's that brings a contestant to the study of ensembles."""

from paragone.lab import Contestant


def contestants(study):
    if study != "ensembles":
        return []
    make = "sklearn.neighbors:KNeighbors{kind}"
    return [Contestant(id="guest_neighbors", title="guest neighbours", make=make, origin="guest")]
