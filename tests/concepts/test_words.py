"""Word vectors and nouns."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sparsight.concepts.nouns import KnownNouns, ParsedNouns
from sparsight.concepts.words import embed_labels, embed_word, open_words
from sparsight.concepts.words_clip import ClipWords
from sparsight.concepts.words_word2vec import Word2Vec
from sparsight.concepts.words_wordllama import WordLlama
from sparsight.errors import SparsightError
from sparsight.worlds import avatars

CLIP = Path(avatars.__file__).parent / "weights" / "clip"


class Table:
    """Three words and their vectors."""

    name, size = "table", 2

    def __init__(self, table=None):
        self.table = table or {"hot": [1.0, 0.0], "dog": [0.0, 2.0], "cat": [1.0, 1.0]}

    def known(self, word):
        return word in self.table

    def vectors(self, words):
        return torch.tensor([self.table[word] for word in words]).reshape(-1, 2)


def test_a_label_is_the_mean_of_its_known_words():
    found = embed_labels(Table(), ["dog", "Hot dog", "hot potato", "potato", "a potato"])
    assert found.vectors.tolist() == [[0, 2], [0.5, 1], [1, 0], [0, 0], [0, 0]]
    assert found.known.tolist() == [True, True, True, False, False]
    assert found.skipped == {"potato": 3, "a": 1}
    assert embed_labels(Table(), []).vectors.shape == (0, 2)


def test_an_unknown_word_is_refused_with_the_nearest():
    assert embed_word(Table(), "Cat").tolist() == [1, 1]
    with pytest.raises(SparsightError, match=r"unknown word .*'catt': did you mean 'cat'\?"):
        embed_word(Table(), "catt", ["dog", "cat"])
    with pytest.raises(SparsightError, match="'catt' has no vector in table"):
        embed_word(Table(), "catt")
    with pytest.raises(SparsightError, match="the word is empty"):
        embed_word(Table(), " ")


def test_wordllama_is_the_mean_of_the_packages_own_rows():
    words = open_words()
    assert isinstance(words, WordLlama) and words.size == 256
    root = Path(importlib.util.find_spec("wordllama").submodule_search_locations[0])
    table = load_file(root / "weights/l2_supercat_256.safetensors")["embedding.weight"].float()
    pieces = words._encode("banana").ids
    assert len(pieces) == 2
    torch.testing.assert_close(words.vectors(["banana", "Banana"]), table[pieces].mean(0).expand(2, -1))
    near = torch.nn.functional.normalize(words.vectors(["cat", "kitten", "truck"]), dim=1)
    assert near[0] @ near[1] > 0.4 > 0.2 > near[0] @ near[2]


def test_wordllama_knows_words_and_no_strings():
    words = WordLlama()
    assert all(map(words.known, ["cat", "giraffe", "UFO", "hippopotamus", "octopus", "xylophone"]))
    assert not any(map(words.known, ["", "  ", "qwzxt", "zxqv", "猫"]))
    assert WordLlama(letters=0).known("qwzxt")
    with pytest.raises(SparsightError, match="'qwzxt' has no vector in wordllama"):
        words.vectors(["qwzxt"])


def test_a_missing_wordllama_is_one_sentence(monkeypatch):
    from sparsight.concepts import words_wordllama

    monkeypatch.setattr(words_wordllama, "find_spec", lambda name: None)
    words_wordllama._files.cache_clear()
    with pytest.raises(SparsightError, match="pip install wordllama"):
        WordLlama()
    words_wordllama._files.cache_clear()


def test_clip_is_its_own_text_tower():
    words = open_words(f"clip:{CLIP}")
    assert isinstance(words, ClipWords)
    both = words.vectors(["hat", "beard"])
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(words.vectors(["beard"])[0], both[1])
    tokens = words.tokenizer(["a photo of a hat"], return_tensors="pt")
    with torch.no_grad():
        whole = words.model.get_text_features(**tokens)
    whole = getattr(whole, "pooler_output", whole)
    torch.testing.assert_close(both[:1], torch.nn.functional.normalize(whole, dim=1))
    assert words.vectors([]).shape == (0, words.size) and not words.known(" ")
    with pytest.raises(SparsightError, match="blank word"):
        words.vectors([" "])


@pytest.fixture
def vectors_file(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("3 2\ncat 1 0\nParis 0 1\nhot_dog 0.5 0.5\n")
    return file


def test_word2vec_reads_text_and_binary(vectors_file, tmp_path):
    pytest.importorskip("gensim")
    words = open_words(f"word2vec:{vectors_file}")
    assert words.size == 2 and words.known("Cat") and words.known("paris") and not words.known("dog")
    assert words.vectors(["paris", "CAT"]).tolist() == [[0, 1], [1, 0]]
    binary = tmp_path / "vectors.bin"
    rows = {b"cat": [1, 0], b"dog": [3, 4]}
    binary.write_bytes(
        b"2 2\n" + b"".join(w + b" " + np.array(v, np.float32).tobytes() + b"\n" for w, v in rows.items())
    )
    assert Word2Vec(binary).vectors(["dog"]).tolist() == [[3, 4]]
    assert not Word2Vec(binary, limit=1).known("dog")
    binary.write_bytes(b"no vectors at all")
    with pytest.raises(SparsightError, match="holds no word vectors"):
        Word2Vec(binary)


def test_word2vec_takes_vectors_in_memory_too():
    words = Word2Vec(SimpleNamespace(vector_size=2, key_to_index={"cat": 0}, __getitem__=None))
    assert words.name == "word2vec" and words.known("cat") and not words.known("dog")
    with pytest.raises(SparsightError, match="'dog' has no vector"):
        words.vectors(["dog"])


def test_word2vec_without_gensim_is_one_sentence(vectors_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(SparsightError, match=r"needs gensim: pip install 'sparsight\[word2vec\]'"):
        Word2Vec(vectors_file)


def test_pickles_and_missing_files_are_refused(tmp_path):
    pytest.importorskip("gensim")
    with pytest.raises(SparsightError, match="are not there"):
        Word2Vec(tmp_path / "nowhere.bin")
    (tmp_path / "vectors.kv").write_bytes(b"")
    with pytest.raises(SparsightError, match="is a pickle of gensim's"):
        Word2Vec(tmp_path / "vectors.kv")


@pytest.mark.parametrize("text", ["glove", "word2vec:", "clip", "wordllama:x", ""])
def test_unknown_vectors_name_the_valid_ones(text):
    with pytest.raises(SparsightError, match=r"unknown word vectors .*word2vec:FILE"):
        open_words(text)


def test_nouns_of_a_prompt_are_found_longest_first():
    nouns = KnownNouns(["dog", "hot dog", "cherry", "knife", "leaf", "bus", "ice cream"])
    assert nouns("Two hot-dogs, a DOG and cherries; the bus's buses") == ["hot dog", "dog", "cherry", "bus"]
    assert nouns("A hot dog beside a dog, and a hot dog") == ["hot dog", "dog"]
    assert nouns("knives and leaves with ice creams") == ["knife", "leaf", "ice cream"]
    assert KnownNouns(["dog"], plurals=False)("dogs") == []
    assert KnownNouns([])("anything") == [] and nouns("") == []
    assert KnownNouns(["bus", "buses"])("buses") == ["buses"]


def test_a_prompt_that_names_nothing_is_one_sentence():
    nouns = KnownNouns(["dog", "cat"])
    assert nouns.require("a dog") == ["dog"]
    with pytest.raises(SparsightError, match="the prompt is empty"):
        nouns.require(" , ")
    with pytest.raises(SparsightError, match=r"unknown noun 'dgo': did you mean 'dog'\?"):
        nouns.require("dgo")
    with pytest.raises(SparsightError, match=r"'a wild goose' names none of the known labels \(cat, dog\)"):
        nouns.require("a wild goose")


def test_a_parser_gives_lemmas_of_nouns():
    tags = {"cats": ("NOUN", "Cat"), "run": ("VERB", "run"), "Paris": ("PROPN", "Paris"), "cat": ("NOUN", "cat")}
    parser = lambda text: [SimpleNamespace(pos_=tags[w][0], lemma_=tags[w][1]) for w in text.split()]  # noqa: E731
    assert ParsedNouns(parser)("cats run Paris cat") == ["cat", "paris"]
