"""What holds for every dialect: no field is ignored in silence, none unknown is let through, and what comes out is ours.

The samples together have each honoured field of every kind; noted ones are put into a sample one by one.
"""

import copy
import re
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.control import manifests, parse
from headrace.control.manifests import components
from headrace.errors import InvalidResources

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.yaml"))
DOCUMENTS = {
    f"{path.stem}:{document['kind']}:{document['metadata']['name']}": document
    for path in SAMPLES
    for document in yaml.safe_load_all(path.read_text())
}
each_document = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)


def convert(document):
    return manifests.convert(document, where="sample.yaml:1", base="/work")


def leaves(value, path=""):
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from leaves(each, f"{path}[{index}]")
    else:
        yield path, value


def parts(path):
    return [int(part[1:-1]) if part[0] == "[" else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", path)]


def walk(value, prefix=()):
    """Each leaf by the keys that lead to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, each in items:
        found = True
        yield from walk(each, (*prefix, key))
    if not found:
        yield prefix, value


def shown(keys):
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def changed(document, keys):
    other = copy.deepcopy(document)
    place = other
    for key in keys[:-1]:
        place = place[key]
    value = place[keys[-1]]
    if isinstance(value, bool):
        place[keys[-1]] = not value
    elif isinstance(value, int | float):
        place[keys[-1]] = value + 1
    elif isinstance(value, str):
        place[keys[-1]] = f"{value}1" if value.isdigit() else f"x{value}"
    else:
        place[keys[-1]] = "x"
    return other


def told(document):
    """Resources without their names' origin, or the faults."""
    try:
        return [msgspec.structs.replace(each, origin="") for each in convert(document)]
    except InvalidResources as error:
        return error.faults


def is_named(path, notes):
    names = [note.partition(": ")[0] for note in notes]
    return any(path == name or path.startswith((f"{name}.", f"{name}[")) for name in names)


@each_document
def test_no_leaf_is_ignored_in_silence(document):
    """Each leaf of a document is named in the notes, or its change changes what comes out."""
    before = told(document)
    notes = [note for resource in before for note in resource.notes]
    silent = []
    for keys, _ in walk(document):
        if keys[0] in {"apiVersion", "kind"} or is_named(shown(keys), notes):
            continue
        if told(changed(document, keys)) == before:
            silent.append(shown(keys))
    assert silent == []


@each_document
def test_unknown_fields_are_faults(document):
    """A field that a kind does not have is a fault that names it, wherever it stands among honoured ones."""
    notes = [note for resource in convert(document) for note in resource.notes]
    places = {keys[:end] for keys, _ in walk(document) for end in range(1, len(keys))}
    for keys in places:
        other = copy.deepcopy(document)
        place = other
        for key in keys:
            place = place[key]
        free = any(key in {"labels", "annotations", "tensorMap", "nodes", "config"} for key in keys[-1:])
        if not isinstance(place, dict) or free or is_named(shown(keys), notes) or "podSpec" in keys:
            continue
        place["surelyNotAField"] = 1
        with pytest.raises(InvalidResources, match=r"unknown field 'surelyNotAField'"):
            convert(other)


@each_document
def test_what_comes_out_is_ours(document):
    """Every resource has its document's origin, one of them all notes, and read back as ours it declares the same."""
    resources = convert(document)
    assert {each.origin for each in resources} == {f"sample.yaml:1: {document['apiVersion']} {document['kind']}"}
    assert [bool(each.notes) for each in resources[:-1]] == [False] * (len(resources) - 1)
    text = yaml.safe_dump_all([parse.render(each) for each in resources])
    read = parse.read([parse.File(name="ours.yaml", text=text, base="/work")])
    assert [(each.key, each.spec, each.metadata) for each in read] == [
        (each.key, each.spec, each.metadata) for each in resources
    ]


@each_document
def test_conversion_is_repeatable(document):
    """The same document gives the same resources, and is left as it was."""
    before = copy.deepcopy(document)
    assert convert(document) == convert(document)
    assert document == before


def test_samples_have_every_honoured_field():
    """The samples are enough to say of every honoured field that it is not ignored."""
    seen = set()
    for document in DOCUMENTS.values():
        for keys, _ in walk(document):
            seen.add(re.sub(r"\[\d+\]|(?<=graph)(\[?\d*\]?\.children\[\d+\])+", "", shown(keys)))
    missing = []
    for row in manifests.fields():
        if row.result.startswith(("without effect", "refused", "as `", "env `")):
            continue
        names = [
            components.FRAMEWORKS if part == "FRAMEWORK" else part.split("|")
            for part in row.path.replace("[]", "").split(".")
        ]
        pattern = r"\.".join("[^.]+" if part == ["*"] else f"(?:{'|'.join(part)})" for part in names)
        if not any(re.search(f"^{pattern}(?:\\.|$)", path) for path in seen):
            missing.append(f"{row.kind}: {row.path}")
    assert missing == [], "\n".join(missing)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"spec": {"storageUri": "x", "artifactVersoin": 1}},
            "unknown field 'artifactVersoin'; did you mean 'artifactVersion'?",
        ),
        ({"spec": {"storageUri": 3}}, "spec.storageUri: expected text, came 3"),
        (
            {"spec": {"storageUri": "x", "memory": "lots"}},
            "spec.memory: expected a quantity such as 512Mi, came 'lots'",
        ),
        ({"spec": {"storageUri": "x", "requirements": "a"}}, "spec.requirements: expected a list, came 'a'"),
        ({"spec": {"storageUri": "x", "logger": {"percnt": 1}}}, "unknown field 'percnt'; did you mean 'percent'?"),
        ({"spec": {"storageUri": "x", "dedicated": None}, "metadata": {}}, "metadata.name: expected a name, came none"),
        ({"spec": [1]}, "spec: expected an object, came a list"),
        ({"spec": {"storageUri": "x"}, "spce": 1}, "the document: unknown field 'spce'; did you mean 'spec'?"),
    ],
)
def test_faults_name_place_expected_and_found(change, expected):
    """A fault names file, resource and field, and says what was expected and what came."""
    document = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Model", "metadata": {"name": "iris"}} | change
    with pytest.raises(InvalidResources) as caught:
        convert(document)
    (fault,) = caught.value.faults
    assert fault.startswith("sample.yaml:1: Model")
    assert expected in fault


def test_all_faults_of_a_document_at_once():
    """Unknown fields and what is wrong in itself are told together."""
    document = copy.deepcopy(DOCUMENTS["seldon_v2_models:Model:iris"])
    document["spec"]["extra"] = 1
    document["spec"]["minReplicas"] = 3
    with pytest.raises(InvalidResources) as caught:
        convert(document)
    assert len(caught.value.faults) == 2
    assert "number of replicas 2 must be >= min replicas 3" in caught.value.faults[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100Ki", 102400), ("1.5Gi", 3 << 29), ("2M", 2_000_000), (1024, 1024), ("1e3", 1000), ("1500m", 2), ("0", 0)],
)
def test_quantities(text, expected):
    """A quantity of Kubernetes is read as a whole number, rounded up."""
    assert manifests.base.amount(text) == expected


@pytest.mark.parametrize("text", ["-1", "1 Gi", "Gi", "1GiB", "nan"])
def test_what_is_no_quantity(text):
    """What Kubernetes would not take for a quantity is refused."""
    with pytest.raises(ValueError, match=re.escape(text)):
        manifests.base.amount(text)


def test_secret_values_are_not_repeated():
    """The value of a secret, or of a variable of the environment, stands in no note."""
    for document in DOCUMENTS.values():
        text = repr(convert(document))
        assert "hunter2" not in text
        assert "oauth_key: key" not in text


def test_unknown_kinds_and_versions():
    """A kind nobody knows, and a version of a known kind nobody knows, are faults that say so."""
    with pytest.raises(InvalidResources, match="nobody here knows apiVersion 'v1', kind 'Pod'"):
        convert({"apiVersion": "v1", "kind": "Pod"})
    with pytest.raises(
        InvalidResources, match=r"'serving.kserve.io/v9' is not known; known are serving.kserve.io/v1beta1"
    ):
        convert({"apiVersion": "serving.kserve.io/v9", "kind": "InferenceService"})


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "root", "x", "1"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "value", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_whatever_comes_is_converted_or_refused(data):
    """A document with anything in any place is converted, or refused by a fault of ours; nothing else is raised."""
    document = copy.deepcopy(data.draw(st.sampled_from(list(DOCUMENTS.values()))))
    for _ in range(data.draw(st.integers(1, 3))):
        places = sorted({keys[:end] for keys, _ in walk(document) for end in range(2, len(keys) + 1)}, key=repr)
        if not places:
            break
        *keys, last = data.draw(st.sampled_from(places))
        place = document
        for key in keys:
            place = place[key]
        if data.draw(st.booleans()):
            del place[last]
        else:
            place[last] = data.draw(ANYTHING)
    try:
        found = convert(document)
    except InvalidResources:
        return
    text = yaml.safe_dump_all([parse.render(each) for each in found])
    try:
        parse.read([parse.File(name="ours.yaml", text=text, base="/work")])
    except InvalidResources as error:
        pytest.fail(f"{error} of {document}")


def test_the_page_of_the_docs_is_that_of_the_tables():
    """The page says of each field what the tables say that is done with it."""
    page = Path(__file__).parents[3] / "docs" / "manifests.md"
    _, _, block = page.read_text().partition("<!-- generated: manifests -->\n")
    assert block.partition("<!-- end -->")[0] == manifests.table().rstrip() + "\n"
