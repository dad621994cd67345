"""What users read in their language: every key is there, none is stale, and the terms are those of the glossary."""

import json
import re

import pytest
from spectrum_accelerate.nodes.samplers import recognition, table
from spectrum_accelerate.spectrum_core.messages import Text

from demo.comfy_server import PACK, ROOT

LOCALES = ROOT / "locales"
HELP = ROOT / "web" / "docs"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
OTHERS = [language for language in LANGUAGES if language != "en"]
OFFERED = {"ar", "en", "es", "fa", "fr", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW"}
"""The languages of ComfyUI's page; another one would break it."""
SAME = re.compile(r"[\W\d_]*(\{\w+\}[\W\d_]*)*(CFG|N)?")
"""What may be the same in two languages: placeholders, numbers and signs."""


def read(language, name="main"):
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def texts(value, path=()):
    """(path of keys, text) of each leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, (*path, key))
    else:
        yield path, value


def placeholders(text):
    return set(re.findall(r"\{(\w+)\}", text))


def ours(language):
    return read(language)["spectrumAccelerate"]


def test_the_languages_are_those_of_the_page():
    assert set(LANGUAGES) == OFFERED


def test_the_pages_keys_are_those_of_the_code():
    """Messages by the members of `Text`, obstacles by their English words, the chart's by what the script says."""
    english = ours("en")
    assert english["messages"] == {text.name: text.value for text in Text}
    obstacles = {info.obstacle for info in table.SAMPLERS.values() if info.obstacle} | {table.CHURNED.obstacle}
    obstacles |= set(re.findall(r'obstacle="([^"]+)"', (ROOT / "nodes/samplers/recognition.py").read_text()))
    assert recognition.UNGUIDED in obstacles
    assert set(english["phrases"]) == obstacles
    assert set(english["short"]) <= {text.name for text in Text} | obstacles
    script = (ROOT / "web" / "spectrum.js").read_text()
    said = set(re.findall(r'say\("(\w+)"', script)) | {"interrupted", "error"}  # these two are outcomes
    assert set(english["chart"]) == said
    assert set(english["menu"]) == set(re.findall(r'template\("menu", "(\w+)"\)', script))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pack_has_a_title_in_the_template_browser(language):
    assert read(language)["templateWorkflows"]["category"] == {PACK: "Spectrum Accelerate"}


@pytest.mark.parametrize("language", OTHERS)
def test_no_key_is_missing_or_stale(language):
    english, other = dict(texts(ours("en"))), dict(texts(ours(language)))
    assert list(other) == list(english)
    for path, text in english.items():
        assert placeholders(other[path]) == placeholders(text), path
        assert other[path] != text or SAME.fullmatch(text) or "widget" in text, f"{path} is not translated"


def glossary():
    """English term -> language -> the forms of its translation."""
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    head = next(row for row in rows if "zh-TW" in row)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows[rows.index(head) + 1 :]}


TERMS = glossary()


def whole(term):
    return re.compile(rf"\b{term}(s|ed)?\b", re.IGNORECASE)


def test_the_glossary_has_all_languages():
    assert {tuple(entry) for entry in TERMS.values()} == {tuple(OTHERS)}


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("term", TERMS)
def test_terms_are_those_of_the_glossary(language, term):
    word = whole(term)
    forms = TERMS[term][language].split("/")
    found = 0
    for name in ("messages", "phrases"):
        english, other = (read(lang)["spectrumAccelerate"][name] for lang in ("en", language))
        for key, text in english.items():
            if word.search(re.sub(r"\{\w+\}", "", text)):
                found += 1
                assert any(form in other[key].lower() for form in forms), (key, other[key])
    english, other = (dict(texts(read(lang, "nodeDefs"))) for lang in ("en", language))
    for path, text in english.items():
        if path[-1] in ("tooltip", "description") and word.search(text):
            found += 1
            assert any(form in other[path].lower() for form in forms), (path, other[path])
    assert found


PAGES = sorted(node for node in read("en", "nodeDefs") if (HELP / f"{node}.md").is_file())
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def page(node, language):
    """The help that ComfyUI shows: `<node>/<language>.md`, or else `<node>.md`, which is the English one."""
    return (HELP / (f"{node}.md" if language == "en" else f"{node}/{language}.md")).read_text(encoding="utf-8")


def shape(text):
    """What a translation leaves as it is. Images and links are the same: ComfyUI reads both pages' from web/docs."""
    prose = CODE.sub("", text)
    return {
        "code blocks": CODE.findall(text),
        "inline code": set(re.findall(r"`([^`]+)`", prose)),
        "images and links": re.findall(r"(!?)\[[^\]]+\]\(([^)]+)\)", prose),
        "headings, rows and items": re.findall(r"^ *(?:#+|\||-|\d+\.)(?= |-)", prose, re.MULTILINE),
        "marks of emphasis": prose.count("*"),
        "paragraphs": len(re.findall(r"\n\n+", prose.strip())),
    }


def sections(text):
    """The words of each section, without code and addresses."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", CODE.sub("", text))
    return [" ".join(section.split()) for section in re.split(r"^#+ ", prose, flags=re.MULTILINE)]


def test_every_node_has_help_in_every_language():
    assert set(PAGES) == set(read("en", "nodeDefs"))
    for node in PAGES:
        assert {file.stem for file in (HELP / node).iterdir()} == set(OTHERS), node


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("node", PAGES)
def test_help_is_that_of_the_english_page(node, language):
    english, other = page(node, "en"), page(node, language)
    assert shape(other) == shape(english)
    assert other.splitlines()[0] == f"# {read(language, 'nodeDefs')[node]['display_name']}"
    assert 0.3 < len(CODE.sub("", other)) / len(CODE.sub("", english)) < 1.8


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("node", PAGES)
def test_help_has_the_terms_of_the_glossary(node, language):
    for english, other in zip(sections(page(node, "en")), sections(page(node, language)), strict=True):
        for term, entry in TERMS.items():
            if whole(term).search(english):
                assert any(form in other.lower() for form in entry[language].split("/")), (term, other)


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_quotes_the_chart(language):
    """As it is on the node: *about 2 % off*, *Old*."""
    said = ours(language)["chart"]
    quotes = [said["about"].format(percent=2), re.match(r"\w+", said["old"]).group()]
    text = " ".join(page("SpectrumAccelerate", language).split())
    assert all(f"*{quote}*" in text for quote in quotes), quotes
