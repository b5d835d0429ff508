"""The font of pictures: letters of European languages are letters, not boxes."""

from __future__ import annotations

from PIL import Image, ImageDraw

from rsicrc.reports.fonts import load_font

LETTERS = "äöüÄÖÜßéèêñçøåœæłŁčřžşğőűđțįαωжЯ€×±°²·…—"


def drawn(text: str) -> bytes:
    image = Image.new("L", (60, 60))
    ImageDraw.Draw(image).text((10, 5), text, fill=255, font=load_font(24))
    return image.tobytes()


def test_letters_are_distinct_and_no_boxes() -> None:
    box = drawn("\uffff")
    pictures = {letter: drawn(letter) for letter in LETTERS}
    assert [letter for letter, picture in pictures.items() if picture == box] == []
    assert len(set(pictures.values())) == len(LETTERS)


def test_font_is_loaded_once_in_each_size() -> None:
    assert load_font(20) is load_font(20)
    assert load_font(20).getlength("abc") < load_font(30).getlength("abc")
