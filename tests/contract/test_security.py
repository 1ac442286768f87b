"""What docs/security.md says: forbidden calls by reading the source, and loaders under attack."""

import ast
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "paragone"
OWN = "among processes that one program started"
ALLOWED = {
    ("runtime/_pool_worker.py", "pickle"): OWN,
    ("runtime/_pool_outcome.py", "pickle"): OWN,
    ("runtime/_pool_crew.py", "pickle"): OWN,
    ("runtime/_loader_fetch.py", "pickle"): OWN,
    ("lab/ranks.py", "pickle"): OWN,
    ("ensemble/_warmup.py", "pickle"): "its own bytes, made on the same line",
    ("kernels/_cache.py", "pickle"): "from folders that only this user writes to",
    ("lab/guests.py", "pickle"): "the user's object, its hash noted",
    ("lab/predict_template.py", "pickle"): "beside the model that the user exported",
    ("training/_zero_reading.py", "pickle"): "an Unpickler that finds classes of an index only",
    ("cli/app.py", "eval"): "annotations in our own source",
    ("vision/_precision_voc.py", "xml"): "with a builder that refuses a DOCTYPE",
    ("language/corpus.py", "weak hash"): "an order of files",
    ("lab/report/html.py", "markup"): "our own drawings, style and script",
    ("lab/report/book.py", "markup"): "our own drawings, and the catalogue as a list",
}


def offences(text):
    """Rules that a source breaks."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            roots = {(name or "").split(".")[0] for name in names}
            found |= {"xml"} if roots & {"xml", "lxml"} else set()
            found |= {"pickle"} if roots & {"marshal", "shelve", "dill"} else set()
            found |= {"yaml"} if "yaml" in roots else set()
        if isinstance(node, ast.ClassDef) and any(
            "Unpickler" in ast.unparse(b) for b in node.bases
        ):
            found.add("pickle")
        if isinstance(node, ast.Call):
            found |= offence(ast.unparse(node.func), {k.arg: k.value for k in node.keywords})
    return found


def offence(name, keys):
    """Rules that one call breaks."""

    def says(key, value):
        return isinstance(keys.get(key), ast.Constant) and keys[key].value is value

    rules = {
        "pickle": name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load",
                           "cloudpickle.load", "cloudpickle.loads", "pandas.read_pickle"),
        "torch": (name == "torch.load" and not says("weights_only", True))
        or name in ("torch.jit.load", "torch.hub.load", "FileSystemReader"),
        "numpy": says("allow_pickle", True),
        "eval": name in ("eval", "exec", "compile"),
        "shell": name in ("os.system", "os.popen", "subprocess.getoutput")
        or ("shell" in keys and not says("shell", False)),
        "template": (name.endswith("jinja2.Environment") and not says("autoescape", True))
        or name == "jinja2.Template",
        "markup": name == "Markup",
        "archive": name.endswith((".extractall", "unpack_archive")),
        "temporary": name.endswith(".mktemp"),
        "weak hash": name in ("hashlib.md5", "hashlib.sha1") and not says("usedforsecurity", False),
        "remote": says("trust_remote_code", True) or name.endswith("hf_hub_download"),
    }  # fmt: skip
    return {rule for rule, broken in rules.items() if broken}


def test_the_source_does_what_the_page_says():
    found = {
        (path.relative_to(PACKAGE).as_posix(), rule)
        for path in PACKAGE.rglob("*.py")
        for rule in offences(path.read_text(encoding="utf-8"))
    }
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), "an exception that nobody needs any more"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("pickle", "pickle.loads(x)"), ("pickle", "import marshal"), ("torch", "torch.load(p)"),
        ("torch", "torch.load(p, weights_only=False)"), ("numpy", "np.load(p, allow_pickle=True)"),
        ("eval", "eval('1')"), ("shell", "run(x, shell=flag)"), ("xml", "from xml.dom import x"),
        ("template", "jinja2.Environment()"), ("archive", "t.extractall(p)"),
        ("temporary", "tempfile.mktemp()"), ("weak hash", "hashlib.md5(x)"),
        ("yaml", "import yaml"), ("remote", "f(trust_remote_code=True)"), ("markup", "Markup(x)"),
    ],
)  # fmt: skip
def test_the_check_sees_what_it_looks_for(rule, text):
    assert offences(text) == {rule}


def test_templates_and_scripts_write_no_raw_text():
    folder = PACKAGE / "lab" / "report"
    pages = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.jinja"))
    assert "|safe" not in pages.replace(" ", "")
    assert "autoescape" not in pages
    # Drawings alone, whose texts `svg.element` has escaped.
    assert pages.replace(" ", "").count("|svg") == 1
    for path in folder.glob("*.js"):
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert word not in path.read_text(encoding="utf-8")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def in_run_folder(tmp_path, evil):
    import torch

    from paragone.training.run_folder import Folder

    torch.save({"step": evil}, tmp_path / "last.pt")
    return Folder(tmp_path).last


def in_meta_folder(tmp_path, evil):
    import torch

    from paragone.language.checkpoints import load

    (tmp_path / "params.json").write_text('{"dim": 8, "n_layers": 1, "n_heads": 1}')
    torch.save({"norm.weight": evil}, tmp_path / "consolidated.00.pth")
    return lambda: load(tmp_path)


def in_index(tmp_path, evil):
    from paragone.training._zero_reading import PlainReader

    (tmp_path / ".metadata").write_bytes(pickle.dumps(evil))
    return PlainReader(tmp_path).read_metadata


def in_value_of_checkpoint(tmp_path, evil):
    import torch

    from paragone.training._zero_reading import PlainPlanner

    content = io.BytesIO()
    torch.save(evil, content)
    content.seek(0)
    return lambda: PlainPlanner().load_bytes(None, content)  # pyright: ignore


def in_npz(tmp_path, evil):
    from paragone.lab._read import read_file

    np.savez(tmp_path / "t.npz", X=np.array([[evil, evil]], object), y=np.zeros(1))
    return lambda: read_file(tmp_path / "t.npz", "y")


def in_guest(tmp_path, evil):
    from paragone.lab.guests import unpickle

    (tmp_path / "g.pickle").write_bytes(pickle.dumps(evil))
    return lambda: unpickle(str(tmp_path / "g.pickle"), "0" * 12)


@pytest.mark.parametrize(
    "plant",
    [in_run_folder, in_meta_folder, in_index, in_value_of_checkpoint, in_npz, in_guest],
    ids=lambda plant: plant.__name__,
)
def test_a_pickle_is_refused_and_not_run(tmp_path, plant):
    load = plant(tmp_path, Evil(tmp_path / "run"))
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        load()
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "run")))
    assert (tmp_path / "run").exists(), "the attack itself must work"


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__.os }}",
     "{{ messages.append(1) }}", "{{ 'x' * 9999999999 }}",
     "{% for i in range(10**9) %}x{% endfor %}"],
    ids=["class", "globals", "change", "long text", "long loop"],
)  # fmt: skip
def test_a_template_cannot_leave_its_sandbox(template):
    from paragone.language.chat import ChatTemplate

    with pytest.raises(ValueError, match="chat template"):
        ChatTemplate(template).render([{"role": "user", "content": "x"}])


BOMB = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 9))


@pytest.mark.parametrize(
    "inside", [f'<!ENTITY a0 "x">{BOMB}', '<!ENTITY a8 SYSTEM "file:///etc/hostname">'],
    ids=["bomb", "file"],
)  # fmt: skip
def test_annotations_with_a_document_type_are_refused(tmp_path, inside):
    from paragone.vision.annotations import read_annotations

    (tmp_path / "a.xml").write_text(
        f"<!DOCTYPE x [{inside}]><annotation><filename>&a8;</filename></annotation>"
    )
    with pytest.raises(ValueError, match="DOCTYPE"):
        read_annotations(tmp_path)


def text(word):
    return struct.pack("<Q", len(word)) + word.encode()


def field(kind, rest):
    return struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<I", kind) + rest


HUGE = 1 << 62
NESTED = b"".join(struct.pack("<IQ", 9, 1) for _ in range(5000))


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<QQ", HUGE, 0), struct.pack("<QQ", 0, HUGE), field(8, struct.pack("<Q", HUGE)),
        field(9, struct.pack("<IQ", 10, HUGE)), field(9, struct.pack("<IQ", 8, HUGE)),
        field(9, NESTED),
        struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<I", 2**32 - 1),
        struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0),
        struct.pack("<QQ", 1, 1) + text("general.alignment") + struct.pack("<II", 4, 0)
        + text("t") + struct.pack("<IQIQ", 1, 1, 0, 0),
        struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<IQIQ", 1, 5, 8, 0),
    ],
    ids=["tensors", "fields", "text", "numbers", "texts", "nested", "axes", "shape", "alignment",
         "rows"],
)  # fmt: skip
def test_a_model_file_of_absurd_sizes_is_a_plain_error(tmp_path, rest):
    from paragone.language._format_gguf import read_tensors

    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + rest + b"\0" * 64)
    with pytest.raises(ValueError, match=r"m\.gguf"):
        read_tensors(path)


def test_a_configuration_of_absurd_depth_is_refused_before_it_is_built():
    import torch

    from paragone.language._format_weights import build_model
    from paragone.language.config import LlamaConfig

    config = LlamaConfig(num_hidden_layers=10**9)
    with pytest.raises(ValueError, match="1000000000 layers, but only 1 tensors"):
        build_model(config, {"model.norm.weight": torch.ones(1)}, "folder")


def test_boxes_are_not_written_outside_their_folder(tmp_path):
    from paragone.vision.annotations import Annotations, Image, write_annotations

    boxes = Annotations(
        images=(Image("../out", "a.jpg", 4, 4),), classes=("c",), class_ids=(0,),
        image=np.array([0]), label=np.array([0]), boxes=np.array([[0.0, 0.0, 2.0, 2.0]]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="outside"):
        write_annotations(boxes, tmp_path / "in", "voc")
    assert not (tmp_path / "out.xml").exists()


def test_kernels_are_not_taken_from_a_folder_that_all_may_write_to(tmp_path, monkeypatch):
    from paragone.kernels.backends import cache_folder

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o755)
    assert cache_folder(__file__) == tmp_path
    tmp_path.chmod(0o777)
    assert cache_folder(__file__) is None


def test_a_private_place_is_no_link(tmp_path):
    from paragone._core.private import open_private, private_folder

    (tmp_path / "mine").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="link"):
        open_private(tmp_path / "link")
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="alone"):
        private_folder(tmp_path / "folder")
    assert private_folder(tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "mine").read_text() == "kept"
