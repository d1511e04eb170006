"""The trust folder on disk."""

from __future__ import annotations

import json
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from headrace.detectors.base import State
from headrace.errors import InvalidRequest, LoadFailed
from headrace.explainers.base import Reference
from headrace.features import Feature, Features, numeric
from headrace.trust import states
from headrace.trust.folder import features_of, find_folder, open_folder, smallest, write_folder
from headrace.trust.spec import Bias, Card, DetectorSpec, Explainers, ExplainerSpec, Input, Output, Schema

STATE = State(parameters={"alpha": 0.05, "names": ["a"]}, arrays={"mean": np.array([0.1, np.nan]), "n": np.array(3)})


def write(path, *, schema=None, x=None, y=None, detectors=None, outputs=None):
    x = np.arange(12.0).reshape(6, 2) / 7 if x is None else x
    schema = schema or Schema(
        features=numeric(("a", "b")),
        inputs=(Input(name="", datatype="FP64", columns=(0, 1)),),
        output=Output(probabilities="predict_proba", labels="predict"),
        classes=("no", "yes"),
    )
    y = np.array([0, 1, 0, 1, 0, 1]) if y is None else y
    rows = Reference(features=schema.features, x=x, y=y, classes=tuple(map(str, schema.classes)))
    return write_folder(
        path,
        card=Card(headrace="0.0", rows=len(x)),
        schema=schema,
        detectors=detectors or [(DetectorSpec(name="odd", method="mahalanobis", kind="outlier", threshold=2.5), STATE)],
        explainers=Explainers(explainers=(ExplainerSpec(name="anchors", method="anchor-tabular"),)),
        reference=rows,
        held_out=msgspec.structs.replace(rows, x=x[:2], y=None if y is None else y[:2]),
        outputs=outputs,
    )


class TestRoundTrip:
    def test_gives_back_what_was_written(self, tmp_path):
        """Schema, rows, labels, answers, detectors and explainers are read as they were written."""
        outputs = np.linspace(0, 1, 12).reshape(6, 2)
        written = write(tmp_path / "trust", outputs=outputs)
        folder = open_folder(tmp_path / "trust")
        assert folder.schema == written.schema
        assert folder.digest == written.digest
        reference = folder.reference()
        assert np.array_equal(reference.x, np.arange(12.0).reshape(6, 2) / 7)
        assert reference.x.dtype == np.float64
        assert reference.y.dtype == np.int64
        assert reference.classes == ("no", "yes")
        assert np.array_equal(folder.held_out().x, reference.x[:2])
        assert np.array_equal(folder.outputs(), outputs)
        assert folder.held_outputs() is None
        state = folder.state("odd")
        assert state.parameters == STATE.parameters
        assert np.array_equal(state.arrays["mean"], STATE.arrays["mean"], equal_nan=True)
        assert state.arrays["n"].shape == ()
        assert folder.explainer_spec().name == "anchors"

    def test_keeps_texts(self, tmp_path):
        """Texts come back letter by letter, without objects in the file."""
        texts = np.array(["", "naïve ☂", "b\nc"], object)
        schema = Schema(data="text", classes=(0, 1))
        write(tmp_path / "t", schema=schema, x=texts, y=np.array([0, 1, 0]))
        assert open_folder(tmp_path / "t").reference().x.tolist() == texts.tolist()

    def test_says_the_same_bytes_for_the_same_content(self, tmp_path):
        """Two folders of the same content have the same digest and the same files."""
        first, second = write(tmp_path / "a"), write(tmp_path / "b")
        assert first.digest == second.digest
        for file in sorted((tmp_path / "a").iterdir()):
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

    def test_replaces_a_folder_whole(self, tmp_path):
        """Writing over a folder leaves nothing of the old one and nothing beside it."""
        write(tmp_path / "t", detectors=[(DetectorSpec(name="old", method="ks", kind="drift"), STATE)])
        write(tmp_path / "t")
        assert sorted(each.name for each in tmp_path.iterdir()) == ["t"]
        assert not (tmp_path / "t" / "old.npz").exists()

    def test_does_not_write_over_something_else(self, tmp_path):
        """A folder that is no trust folder is refused and stays as it is."""
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "thesis.txt").write_text("dear")
        with pytest.raises(LoadFailed, match="something else"):
            write(tmp_path / "t")
        assert (tmp_path / "t" / "thesis.txt").read_text() == "dear"

    @given(arrays_of.arrays(st.sampled_from([np.float64, np.int64]), st.integers(0, 20)))
    def test_narrows_without_loss(self, array):
        """The narrower form of an array has the same values, whatever they are."""
        with np.errstate(all="ignore"):
            narrow = smallest(array)
        assert np.array_equal(narrow.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")

    @given(
        st.dictionaries(
            st.text("abc", min_size=1), st.none() | st.integers(-9, 9) | st.text() | st.lists(st.booleans())
        ),
        st.dictionaries(
            st.text("xyz", min_size=1),
            arrays_of.arrays(
                st.sampled_from([np.float64, np.int8, np.bool_, np.float32]), arrays_of.array_shapes(min_dims=0)
            ),
        ),
    )
    def test_keeps_any_state(self, parameters, arrays):
        """A state comes back from its bytes with the same parameters, arrays, dtypes and shapes."""
        back = states.load(states.dump(State(parameters=parameters, arrays=arrays)), where="here")
        assert back.parameters == parameters
        assert back.arrays.keys() == arrays.keys()
        for name, array in arrays.items():
            assert back.arrays[name].dtype == array.dtype
            assert back.arrays[name].tobytes() == np.ascontiguousarray(array).reshape(array.shape).tobytes()


class TestRefusals:
    @pytest.mark.parametrize("name", ["schema.json", "reference.npz", "odd.npz"])
    def test_refuses_a_file_that_differs(self, tmp_path, name):
        """One changed byte of a fitted file is refused, and the file is named."""
        write(tmp_path / "t")
        data = bytearray((tmp_path / "t" / name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "t" / name).write_bytes(data)
        with pytest.raises(LoadFailed, match=name):
            open_folder(tmp_path / "t")

    def test_refuses_a_missing_file(self, tmp_path):
        """A file that is gone is refused, and named."""
        write(tmp_path / "t")
        (tmp_path / "t" / "odd.npz").unlink()
        with pytest.raises(LoadFailed, match=r"odd\.npz"):
            open_folder(tmp_path / "t")

    def test_takes_edits_of_detectors_and_explainers(self, tmp_path):
        """A threshold and a guard set by hand are read, and the digest stays."""
        digest = write(tmp_path / "t").digest
        file = tmp_path / "t" / "detectors.json"
        listed = json.loads(file.read_text())
        assert listed[0]["window"]["min_rows"] == 100  # every key is there to be edited
        listed[0] |= {"threshold": 9.0, "guard": "reject"}
        file.write_text(json.dumps(listed))
        folder = open_folder(tmp_path / "t")
        assert folder.spec("odd").threshold == 9.0
        assert folder.spec("odd").guard == "reject"
        assert folder.digest == digest

    def test_refuses_a_later_format(self, tmp_path):
        """A folder of a later format, with keys nobody knows yet, is refused with what to do."""
        write(tmp_path / "t")
        card = json.loads((tmp_path / "t" / "card.json").read_text())
        (tmp_path / "t" / "card.json").write_text(json.dumps({**card, "format": 2, "new": 1}))
        with pytest.raises(LoadFailed, match=r"format 2.*upgrade headrace"):
            open_folder(tmp_path / "t")

    def test_names_a_wrong_key(self, tmp_path):
        """A key that does not exist is refused with its file and place."""
        write(tmp_path / "t")
        (tmp_path / "t" / "detectors.json").write_text(
            '[{"name": "odd", "method": "m", "kind": "outlier", "treshold": 1}]'
        )
        with pytest.raises(LoadFailed, match=r"detectors\.json.*treshold"):
            open_folder(tmp_path / "t")

    @pytest.mark.parametrize(
        ("listed", "message"),
        [
            ([{"name": "new", "method": "ks", "kind": "drift"}], "never fitted"),
            ([{"name": "../odd", "method": "ks", "kind": "drift"}], "cannot be a detector's name"),
            ([{"name": "odd", "method": "ks", "kind": "drift"}] * 2, "two detectors"),
            ([{"name": "b", "method": "groups", "kind": "bias"}], "protected attributes"),
        ],
    )
    def test_refuses_detectors_that_cannot_be(self, tmp_path, listed, message):
        """A detector that was never fitted, leads out of the folder, is there twice or lacks its attributes is refused."""
        write(tmp_path / "t")
        (tmp_path / "t" / "detectors.json").write_text(json.dumps(listed))
        with pytest.raises(LoadFailed, match=message):
            open_folder(tmp_path / "t")

    def test_refuses_objects(self, tmp_path):
        """Arrays of objects are neither written nor read, so nothing is ever unpickled."""
        with pytest.raises(LoadFailed, match="objects"):
            states.dump(State(arrays={"a": np.array([{}], object)}))
        np.savez(tmp_path / "a.npz", a=np.array([{}], object))
        with pytest.raises(LoadFailed, match="cannot be read"):
            states.load_arrays((tmp_path / "a.npz").read_bytes(), where="a")

    def test_refuses_a_zip_that_would_fill_memory(self, tmp_path):
        """A small file that claims gigabytes is refused before it is unpacked."""
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", b"x")
            archive.infolist()[0].file_size = 1 << 40
        with pytest.raises(LoadFailed, match="bytes of memory"):
            states.load_arrays((tmp_path / "a.npz").read_bytes(), where="a")

    def test_says_that_there_is_none(self, tmp_path):
        """A path without a folder is refused with the command that writes one."""
        with pytest.raises(LoadFailed, match="trust fit"):
            open_folder(tmp_path / "t")

    def test_names_the_detectors_there_are(self, tmp_path):
        """An unknown detector's or explainer's error lists the known ones."""
        folder = write(tmp_path / "t")
        with pytest.raises(InvalidRequest, match="there are odd"):
            folder.spec("even")
        with pytest.raises(InvalidRequest, match="there are anchors"):
            folder.explainer_spec("lime")


class TestFind:
    def test_finds_it_beside_a_file_and_in_folders(self, tmp_path):
        """STEM.trust beside a file goes before trust/ in its folder, and a version finds the one of all versions."""
        (tmp_path / "iris" / "2").mkdir(parents=True)
        model = tmp_path / "iris" / "2" / "model.joblib"
        model.touch()
        assert find_folder(model) is None
        write(tmp_path / "iris" / "trust")
        assert find_folder(model) == tmp_path / "iris" / "trust"
        assert find_folder(model.parent) == tmp_path / "iris" / "trust"
        write(model.parent / "trust")
        assert find_folder(model) == model.parent / "trust"
        write(model.parent / "model.trust")
        assert find_folder(model) == model.parent / "model.trust"

    def test_does_not_climb_from_a_folder_that_is_no_version(self, tmp_path):
        """A trust folder above a model's own folder is somebody else's."""
        (tmp_path / "iris").mkdir()
        write(tmp_path / "trust")
        assert find_folder(tmp_path / "iris") is None


class TestFeatures:
    def test_tells_what_a_detector_is_fed(self):
        """Columns of what detectors are fed follow from the schema."""
        schema = Schema(
            features=Features(columns=(Feature(name="sex", kind="category", categories=("f", "m")),)),
            classes=("no", "yes"),
            bias=(Bias(attribute="sex", privileged=("m",)),),
        )
        assert features_of(schema, "inputs") is schema.features
        assert features_of(schema, "outputs").names == ("no", "yes")
        assert features_of(schema, "predictions").columns[0].categories == ("no", "yes")
        assert len(features_of(schema, "uncertainty")) == 1
        numbers = Schema(task="regression", output=Output(labels="predict", width=2))
        assert len(features_of(numbers, "outputs")) == 2
