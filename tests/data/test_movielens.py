from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedrec.data.interactions import Interactions
from fedrec.data.movielens import split_title
from fedrec.data.source import load, published_negatives
from fedrec.data.sources.lastfm_2k import LastFMConfig
from fedrec.data.sources.ml_1m import MovieLens1MConfig
from fedrec.data.sources.ml_100k import MovieLens100KConfig
from fedrec.errors import DataError


@pytest.mark.parametrize(
    ("title", "column", "expected"),
    [
        ("Toy Story (1995)", "", ("Toy Story", 1995)),
        ("Matrix, The (1999)", "", ("The Matrix", 1999)),
        ("Matrix, The", "1999", ("The Matrix", 1999)),
        ("Postino, Il (The Postman) (1994)", "", ("Il Postino (The Postman)", 1994)),
        ("American in Paris, An (1951)", "", ("An American in Paris", 1951)),
        ("Avventura, L' (1960)", "", ("L'Avventura", 1960)),
        ("Cry, the Beloved Country (1995)", "", ("Cry, the Beloved Country", 1995)),
        ("Land Before Time III:  The Time (1995) (V)", "", ("Land Before Time III: The Time", 1995)),
        ("Land Before Time III: The Time (1995)", "V", ("Land Before Time III: The Time", 1995)),
        ("2001", "1968", ("2001", 1968)),
        ("Untold ", "", ("Untold", None)),
    ],
)
def test_titles_lose_their_year_and_get_their_article_back(
    title: str, column: str, expected: tuple[str, int | None]
) -> None:
    text, year = split_title(title, column)
    assert (text, None if np.isnan(year) else year) == expected


def ml_100k_layout(folder: Path) -> None:
    (folder / "u.data").write_text("2\t1\t3\t881250949\n1\t2\t4\t881250950\n1\t1\t5\t881250949\n")
    flags = ["0|" * 18 + "0", "0|1|" + "0|" * 16 + "1", "1|" + "0|" * 17 + "0"]
    titles = ["Usual Suspects, The (1995)", "Misérables, Les (1995)", "unknown"]
    rows = [
        f"{n}|{title}|01-Jan-1995||http://x|{row}\n"
        for n, (title, row) in enumerate(zip(titles, flags, strict=True), 1)
    ]
    (folder / "u.item").write_text("".join(rows), encoding="latin-1")


def recbole_layout(folder: Path) -> None:
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "2\t1\t3\t881250949\n1\t2\t4\t881250950\n1\t1\t5\t881250949\n"
    )
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tUsual Suspects, The\t1995\t\n2\tMisérables, Les\t1995\tAction Western\n3\tunkonwn\tunkonwn\tunknown\n"
    )


def ml_1m_layout(folder: Path) -> None:
    (folder / "ratings.dat").write_text("2::1::3::881250949\n1::2::4::881250950\n1::1::5::881250949\n")
    (folder / "movies.dat").write_text(
        "1::Usual Suspects, The (1995)::\n2::Misérables, Les (1995)::Action|Western\n3::::\n", encoding="latin-1"
    )


def ml_latest_layout(folder: Path) -> None:
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n2,1,3.0,881250949\n1,2,4.0,881250950\n1,1,5.0,881250949\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n1,"Usual Suspects, The (1995)",(no genres listed)\n'
        '2,"Misérables, Les (1995)",Action|Western\n3,,(no genres listed)\n'
    )


def plain_layout(folder: Path) -> None:
    events = "user_id,item_id,rating,timestamp\n2,1,3,881250949\n1,2,4,881250950\n1,1,5,881250949\n"
    (folder / "interactions.csv.gz").write_bytes(gzip.compress(events.encode()))
    items = 'item_id,title,year,genres\n1,"Usual Suspects, The",1995,\n2,"Misérables, Les",1995,Action|Western\n3,,,\n'
    (folder / "items.csv.gz").write_bytes(gzip.compress(items.encode()))


@pytest.mark.parametrize("write", [ml_100k_layout, recbole_layout, ml_1m_layout, ml_latest_layout, plain_layout])
def test_every_layout_gives_the_same_interactions(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path)
    data = load(MovieLens100KConfig(path=str(tmp_path)))
    assert data.indptr.tolist() == [0, 2, 3]
    assert data.items.tolist() == [0, 1, 0]
    assert data.ratings is not None
    assert data.ratings.tolist() == [5, 4, 3]
    assert data.times is not None
    assert data.times.tolist() == [881250949, 881250950, 881250949]
    catalogue = data.catalogue
    assert [catalogue.title(n) for n in range(3)] == ["The Usual Suspects (1995)", "Les Misérables (1995)", "3"]
    assert catalogue.genre_names == ("Action", "Western")
    assert catalogue.genres is not None
    assert catalogue.genres.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert data.filters == ()


def test_a_folder_that_is_none_or_holds_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*; check data.path"):
        load(MovieLens100KConfig(path=str(tmp_path / "none")))
    with pytest.raises(DataError, match=r"holds no MovieLens files; it needs one of these pairs: ratings.dat and"):
        load(MovieLens100KConfig(path=str(tmp_path)))


def test_a_bad_line_of_grouplens_is_named(tmp_path: Path) -> None:
    ml_1m_layout(tmp_path)
    (tmp_path / "ratings.dat").write_text("1::1::5::881250949\n1::2::five::881250950\n")
    with pytest.raises(DataError, match=r"ratings.dat, line 2, column 'rating': 'five' is not a number"):
        load(MovieLens1MConfig(path=str(tmp_path)))


def published(tmp_path: Path, users: list[int], items: list[list[int]]) -> tuple[MovieLens1MConfig, Interactions]:
    ml_1m_layout(tmp_path)
    np.savez(tmp_path / "ncf_negatives.npz", user_id=np.array(users), item_id=np.array(items))
    config = MovieLens1MConfig(path=str(tmp_path))
    return config, load(config)


def test_published_negatives_follow_users_and_catalogue(tmp_path: Path) -> None:
    config, data = published(tmp_path, [2, 1], [[2, 3], [3, 99]])
    negatives = published_negatives(config, data)
    assert negatives is not None
    assert negatives.tolist() == [[2, -1], [1, 2]]
    one = published_negatives(config, data.take(np.array([1])))
    assert one is not None
    assert one.tolist() == [[1, 2]]


def test_users_without_published_negatives_get_none(tmp_path: Path) -> None:
    config, data = published(tmp_path, [1], [[3, 3]])
    negatives = published_negatives(config, data)
    assert negatives is not None
    assert negatives.tolist() == [[2, 2], [-1, -1]]
    (tmp_path / "ncf_negatives.npz").unlink()
    assert published_negatives(config, data) is None


def test_damaged_negatives_are_said(tmp_path: Path) -> None:
    config, data = published(tmp_path, [1], [[3, 3]])
    file = tmp_path / "ncf_negatives.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="does not hold the arrays user_id and item_id"):
        published_negatives(config, data)
    np.savez(file, user_id=np.array([1]), item_id=np.array([3]))
    with pytest.raises(DataError, match=r"must be whole numbers \[n\] and \[n, 99\]"):
        published_negatives(config, data)


def test_lastfm_in_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "user_artists.dat").write_text("userID\tartistID\tweight\r\n2\t51\t13883\r\n2\t52\t9\r\n3\t51\t1\r\n")
    (tmp_path / "artists.dat").write_text('id\tname\turl\tpictureURL\n51\tDuran Duran\tx\ty\n52\t"Weird" Al\tx\ty\n')
    (tmp_path / "tags.dat").write_bytes(b"tagID\ttagValue\r\n1\tmetal\r\n2\tcaf\xe9\r\n")
    (tmp_path / "user_taggedartists.dat").write_text(
        "userID\tartistID\ttagID\tday\tmonth\tyear\r\n2\t52\t1\t1\t4\t2009\r\n2\t52\t2\t1\t4\t2009\r\n3\t52\t2\t1\t4\t2009\r\n"
    )
    data = load(LastFMConfig(path=str(tmp_path)))
    assert data.items.tolist() == [0, 1, 0]
    assert data.times is None
    assert [data.catalogue.title(n) for n in range(2)] == ["Duran Duran", '"Weird" Al']
    assert data.catalogue.genre_names == ("café", "metal")
    assert data.filters == ("tags: from what users gave their artists",)
    other = tmp_path / "csv"
    other.mkdir()
    events = b"user_id,item_id,play_count\n2,51,13883\n2,52,9\n3,51,1\n"
    (other / "interactions.csv.gz").write_bytes(gzip.compress(events))
    items = 'item_id,title,tags\n51,Duran Duran,\n52,"""Weird"" Al",café|metal\n'
    (other / "items.csv.gz").write_bytes(gzip.compress(items.encode()))
    same = load(LastFMConfig(path=str(other)))
    assert same.items.tolist() == data.items.tolist()
    assert same.ratings is not None
    assert same.ratings.tolist() == [13883, 9, 1]
    assert same.catalogue.titles is not None
    assert data.catalogue.titles is not None
    assert same.catalogue.titles.tolist() == data.catalogue.titles.tolist()
    with pytest.raises(DataError, match=r"holds neither user_artists.dat nor interactions.csv.gz"):
        load(LastFMConfig(path=str(tmp_path / "none")))
