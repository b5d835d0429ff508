"""Conditions of a search: the whole text is one condition, and its meaning is that of LanceDB."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from rsicrc.index.condition import ConditionError, normalize_condition

COLUMNS = ("id", "year", "Place", "my col", "a-b", "cloudy", "day", "limit", "Ö")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Return a LanceDB table of three rows with the columns `COLUMNS`."""
    import lancedb

    values = (
        ["a", "it's", "c"],
        [2018, 2020, 2022],
        ["Graz", "Lyon", None],
        [1, 2, 3],
        [1.0, 2.5, 3.0],
        [True, False, None],
        [datetime.date(year, 6, 1) for year in (2018, 2020, 2022)],
        [1, 2, 3],
        [1, 2, 3],
    )
    database = lancedb.connect(str(tmp_path_factory.mktemp("conditions")))
    return database.create_table("pairs", pa.table(dict(zip(COLUMNS, values, strict=True))))


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("id = 'a'", "0"),
        ("id = 'it''s'", "1"),
        ("year > 2018 and year<=2022 and year <> 2020", "2"),
        ("year == 2018 OR year != 2018", "012"),
        ("year = 2018 and not id = 'c' or id = 'c'", "02"),
        ("not year = 2018 and id = 'c'", "2"),
        ("not (year = 2018 and id = 'c')", "012"),
        ("((year)) IN (2018, 2019 + 1)", "01"),
        ("year not in (2018)", "12"),
        ("year between 2018 and 2020 and id = 'a'", "0"),
        ("year not between 2018 and 2020", "2"),
        ("Place like 'G%'", "0"),
        ("place ilike '%Y%'", "1"),
        ("Place not like 'G%'", "1"),
        ("Place is null", "2"),
        ("Place is not null", "01"),
        ("cloudy", "0"),
        ("not cloudy", "1"),
        ("cloudy is not true", "12"),
        ("`my col` = 2", "1"),
        ('"my col" = 2 and "Place" = \'Lyon\'', "1"),
        ("`a-b` > 2 and `limit` < 3", "1"),
        ("ö = 3", "2"),
        ("year - 2017 = -(-1) and -year < 0", "0"),
        ("year - 2000 - 10 = 8", "0"),
        ("2 + 3 * `my col` = 8", "1"),
        ("lower(Place) in ('graz') or starts_with(id, 'c')", "02"),
        ("cast(year as string) = '2018' or year::string = '2020'", "01"),
        ("day >= date '2020-01-01'", "12"),
        ("id || 'x' = 'ax'", "0"),
    ],
)
def test_condition_has_the_meaning_of_lancedb(table: object, where: str, rows: str) -> None:
    written = normalize_condition(where, COLUMNS)
    query = table.search()  # type: ignore[attr-defined]
    found = query.where(written).select(["year"]).to_arrow().column("year").to_pylist()
    assert [(year - 2018) // 2 for year in found] == [int(row) for row in rows]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("year > 1900 AN Place = 'Graz'", "unexpected 'AN' at character 13, after 'year > 1900 '; join conditions"),
        ("year > 1900, Place = 'Graz'", "unexpected ',' at character 12"),
        ("year > 1900; Place = 'Graz'", "unexpected ';' at character 12"),
        ("year > 1900\nPlace = 'Graz'", "unexpected 'Place' at character 13"),
        ("year > 1900 && Place = 'Graz'", "unexpected '&' at character 13"),
        ("year > 1900 limit 1", "unexpected 'limit'"),
        ("year > 1900 order by id", "unexpected 'order'"),
        ("year > 1900 group by id", "unexpected 'group'"),
        ("year > 1900 union select 1", "unexpected 'union'"),
        ("year > 1900 -- and id = 'a'", "comments ('--') are not accepted at character 13"),
        ("year > 1900 /* and */", "comments ('/*') are not accepted"),
        ("year > 1900 # and", "comments ('#') are not accepted"),
        ("year > 1900)", "unexpected ')' at character 12"),
        ("(year > 1900", "expected ')', not the end at the end"),
        ("year > 1900 'a'", "unexpected \"'a'\""),
        ("year = 1900 = true", "unexpected '=' at character 13"),
        ("year > 1900 and", "expected a column or a value, not the end"),
        ("or year > 1900", "expected a column or a value, not 'or' at character 1"),
        ("year > 1900\0", "unexpected '\\x00'"),
        ("id = 'a", "the quote ' is not closed at character 6"),
        ("`id = 'a'", "the quote ` is not closed at character 1"),
        ("  ", "the condition is empty"),
        ("yeer = 1", "no column 'yeer' at character 1"),
        ("my col = 1", "no column 'my'"),
        ("`place` = 'Graz'", "no column 'place'"),
        ('Place = "Graz"', "no column 'Graz' at character 9, after 'Place = '; put text into single quotes"),
        ("year = 1_000", "not a number at character 8"),
        ("year = 0x10", "not a number"),
        ("year = 9223372036854775808", "a whole number of more than 64 bits"),
        ("year between 1 or 2", "expected AND of BETWEEN, not 'or'"),
        ("year is 5", "expected NULL, TRUE or FALSE, not '5'"),
        ("year not 5", "expected IN, BETWEEN or LIKE after NOT, not '5'"),
        ("year in 5", "expected '(', not '5'"),
        ("repeat(id, 1000000000) = 'a'", "no function 'repeat' at character 1; there is abs, "),
        ("cast(year as blob) = 1", "expected a type"),
        ("id = N'a'", "no column 'N'"),
        ("id = $$a$$", "unexpected '$'"),
        ("(" * 5000 + "year = 1" + ")" * 5000, "more than 16 nested expressions"),
        ("year = " + "0 + " * 5000 + "1", "more than 16 nested expressions"),
        ("not " * 5000 + "cloudy", "more than 16 nested expressions"),
        ("cloudy or " * 5000 + "cloudy", "more than 1,000 conditions"),
        ("x" * 2_000_000, "more than 1,000,000 characters"),
    ],
)
def test_text_that_is_not_one_condition_is_refused(where: str, message: str) -> None:
    with pytest.raises(ConditionError) as caught:
        normalize_condition(where, COLUMNS)
    assert str(caught.value).startswith(message)


def test_name_that_fits_two_columns_is_refused() -> None:
    with pytest.raises(ConditionError, match=r"^'YEAR' fits Year and year at character 1; put the column"):
        normalize_condition("YEAR = 1", ("Year", "year"))
    assert normalize_condition("Year = 1", ("Year", "year")) == "(`Year` = 1)"


def test_long_list_of_values_is_accepted(table: object) -> None:
    written = normalize_condition(f"id in ('a', {', '.join(f'{n!r}' for n in map(str, range(20_000)))})", COLUMNS)
    assert table.search().where(written).to_arrow().column("id").to_pylist() == ["a"]  # type: ignore[attr-defined]
