"""Estimators as files: there and back, and files that are none."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import pytest
from modelfleet_core.estimation.archive import pack, unpack
from modelfleet_core.estimation.artifact import SCHEMA, ArtifactError, decode, encode
from modelfleet_core.estimation.features import FEATURES, feature_matrix
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.estimation.training import train
from modelfleet_core.values import ModelName, TaskName
from support.training import MODELS, made

Array = npt.NDArray[np.float64]
TEXTS = ["Compute 1 + 2", "Write a poem", "def f(x): return x"]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(MODELS, lambda: [made(120).batch()])


@pytest.fixture(scope="module")
def document(trained: Trained) -> bytes:
    return encode(trained)


def changed(document: bytes, change: Callable[[dict[str, object], dict[str, Array]], object]) -> bytes:
    """Return `document` with its head and arrays as `change` leaves them."""
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        names = tuple(name.removesuffix(".npy") for name in archive.namelist() if name != "head.npy")
    head, arrays = unpack(document, names, most=1 << 24)
    change(head, arrays)
    return pack(head, {name: np.asarray(array, np.float32) for name, array in arrays.items()})


def test_an_estimator_comes_back_as_it_was(trained: Trained, document: bytes) -> None:
    back = decode(document)
    assert (back.models, back.tasks, back.version) == (trained.models, trained.tasks, trained.version)
    x = feature_matrix(TEXTS)
    one, other = trained.predict(x), back.predict(x)
    for field in fields(one):
        assert getattr(one, field.name) == pytest.approx(getattr(other, field.name), abs=1e-4, rel=1e-4)
    assert encode(back) == document


def test_lengths_never_seen_stay_unknown(trained: Trained) -> None:
    back = decode(encode(replace(trained, token_mean=np.full(4, np.nan))))
    assert np.isnan(back.predict(feature_matrix(TEXTS)).output_tokens).all()


def test_equal_content_has_one_version_and_other_content_another(trained: Trained) -> None:
    again = train(MODELS, lambda: [made(120).batch()])
    other = train(MODELS, lambda: [made(120, seed=2).batch()])
    assert again.version == trained.version
    assert other.version != trained.version


def test_fifty_models_and_as_many_tasks_as_there_may_be_fit(trained: Trained) -> None:
    rng = np.random.default_rng(1)

    def noise(*shape: int) -> Array:
        return rng.random(shape)

    m, t = 50, 64
    large = replace(
        trained,
        models=tuple(ModelName(f"organisation/model-{k}-instruct") for k in range(m)),
        tasks=tuple(TaskName(f"task-{k}") for k in range(t)),
        mean=noise(m),
        samples=noise(m),
        directions=noise(FEATURES, 2),
        loadings=noise(2, m),
        task_slopes=noise(FEATURES, t),
        task_levels=noise(t),
        task_quality=noise(t, m),
        task_samples=noise(t, m),
        task_strength=noise(t, 2),
        likeness=noise(FEATURES, 32),
        middles=noise(t, 32),
        typical_distance=noise(t),
        curve=noise(33, m),
        noise=noise(m),
        spread=noise(m),
        token_directions=noise(FEATURES, 3),
        token_loadings=noise(3, m),
        token_mean=noise(m),
        token_smearing=noise(m),
    )
    document = encode(large)
    assert len(document) <= 768 * 1024
    assert decode(document).models == large.models


HARM: dict[str, tuple[Callable[[dict[str, object], dict[str, Array]], object], str]] = {
    "another schema": (lambda h, a: h.update(schema="modelfleet/estimator/9"), SCHEMA),
    "another schema, whose arrays differ": (
        lambda h, a: (h.update(schema="modelfleet/estimator/1"), a.pop("curve")),
        SCHEMA,
    ),
    "no models": (lambda h, a: h.update(models=[]), "no models"),
    "one model twice": (lambda h, a: h.update(models=["a", "a", "b", "c"]), "one twice"),
    "a name that is none": (lambda h, a: h.update(models=["a", 1, "b", "c"]), "not a name"),
    "a model too many": (lambda h, a: h.update(models=["a", "b", "c", "d", "e"]), "does not fit"),
    "thousands of models": (lambda h, a: h.update(models=[str(k) for k in range(9999)]), "at most"),
    "a version that is none": (lambda h, a: h.update(version=""), "version"),
    "a kappa that is none": (lambda h, a: h.update(kappa=-1.0), "kappa"),
    "no scale": (lambda h, a: a.update(scale=np.zeros(FEATURES)), "scale"),
    "negative noise": (lambda h, a: a.update(noise=-np.ones(4)), "noise"),
    "a value out of all bounds": (lambda h, a: a.update(loadings=np.full((2, 4), 1e20)), "beyond"),
    "a value that is not a number": (lambda h, a: a.update(mean=np.full(4, np.nan)), "not finite"),
    "other axes": (lambda h, a: a.update(mean=np.zeros((4, 1))), "dimensional"),
    "other features": (lambda h, a: a.update(center=np.zeros(FEATURES - 1)), "does not fit"),
    "a curve of one point": (lambda h, a: a.update(curve=np.zeros((1, 4))), "two points"),
    "hundreds of directions": (
        lambda h, a: a.update(directions=np.zeros((FEATURES, 200)), loadings=np.zeros((200, 4))),
        "does not fit",
    ),
    "an array less": (lambda h, a: a.pop("curve"), "not an estimator"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_document_with_a_fault_is_refused_by_name(document: bytes, harm: str) -> None:
    change, problem = HARM[harm]
    with pytest.raises(ArtifactError, match=problem):
        decode(changed(document, change))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_document_is_refused(document: bytes, share: float) -> None:
    with pytest.raises(ArtifactError):
        decode(document[: int(share * len(document))])


def test_an_array_that_says_to_be_giant_takes_no_memory(document: bytes) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}\n"
    bomb = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1 << 26)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(document)) as archive, zipfile.ZipFile(file, "w", 8) as made_up:
        for name in archive.namelist():
            made_up.writestr(name, bomb if name == "center.npy" else archive.read(name))
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            decode(file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_head_that_is_nested_without_end_is_refused(document: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(document)) as archive, zipfile.ZipFile(file, "w") as made_up:
        for name in archive.namelist():
            if name != "head.npy":
                made_up.writestr(name, archive.read(name))
        head = np.frombuffer(b"[" * 100_000, dtype=np.uint8)
        entry = io.BytesIO()
        np.lib.format.write_array(entry, head, version=(1, 0), allow_pickle=False)
        made_up.writestr("head.npy", entry.getvalue())
    with pytest.raises(ArtifactError):
        decode(file.getvalue())


def test_a_document_that_is_too_large_is_not_even_opened() -> None:
    with pytest.raises(ArtifactError, match="refused"):
        decode(json.dumps({}).encode() * (2 << 20))
