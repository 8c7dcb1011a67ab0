"""Names and places for surrogates: word for word, in the script of the word whose place they take.

A surrogate name is a common one, so it may be somebody's; it says nothing about whose place it
takes. Lists are written for this project: surnames and given names from everyday use, places made
up.
"""

import re
import unicodedata
from functools import lru_cache

from privacy.masking.draw import Draw


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LATIN_NAMES = _words(
    "Abney Adler Alder Amos Ansel Archer Ardley Arlen Ashby Aster Atwood Avery Ayers Bailey "
    "Barlow Barton Baxter Beaumont Bellamy Benton Berger Birch Blythe Boyd Bramley Briar Brooks "
    "Burnett Byron Calder Carver Casey Chandler Clement Colby Conway Corbin Cullen Dalton Darcy "
    "Denton Drake Duval Easton Eaton Ellery Ellis Emery Farley Fenton Finch Fletcher Forbes "
    "Gable Garland Garner Gentry Gifford Gordon Greer Hadley Halsey Harlow Harper Hartley Haven "
    "Hollis Holt Ingram Jarvis Jensen Jordan Keating Kendall Kerr Kirby Lambert Landry Langley "
    "Larkin Lennox Linden Loring Lowell Lyle Maddox Marlow Mercer Merritt Milburn Morgan Nash "
    "Nolan Norris Oakley Ogden Parker Paxton Perry Porter Prescott Quill Quincy Ramsey Reeve "
    "Rowan Sawyer Selby Shelby Sinclair Sterling Sutton Tatum Thayer Tobin Vance Vernon Walden "
    "Waverly Weston Whitby Winslow Wren Yardley York Zeller"
)
LATIN_PLACES = _words(
    "Ambermill Ashford Barrowby Beckhollow Brackenford Briarwick Calderbrook Cinderford Clearmere "
    "Coldwater Crosswell Dunmere Eastmarch Elderbrook Fallowfield Fernhollow Foxmere Glenharrow "
    "Greyfield Hallowmere Harrowgate Hazelmere Highbarrow Ivybridge Kestrelford Kingsmere "
    "Larkhollow Longmarsh Maplewick Marshgate Millhaven Mossbridge Northmere Oakhollow Otterford "
    "Pinewick Quarryford Ravenmere Redbarrow Rushford Sandmere Silverwick Southmarch Stonebeck "
    "Thornmere Upperfold Valewick Westmere Whitbarrow Willowford Windmere Wrenfield"
)
HAN_SURNAMES = tuple(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭"
)
HAN_COMPOUND = _words(
    "欧阳 司马 诸葛 上官 夏侯 尉迟 皇甫 慕容 令狐 东方 司徒 南宫 端木 公孙 轩辕 长孙 宇文"
)
HAN_GIVEN = tuple(
    "安柏博晨承初川达丹东恩帆枫歌光涵航昊和恒鸿华嘉建江杰锦景静君凯康可岚乐黎良林琳凌龙鹿梦明铭宁培鹏琦启谦晴然荣瑞若森诗书舒思松涛天庭彤文溪晓欣新星修轩雪雅延彦阳怡逸英颖永宇雨语元远月云泽展哲知志子"
)
HAN_PLACES = tuple("青岚云溪松柏竹梅兰桂枫桐江河湖泉石岭谷原野星月晴霞露霜禾麦锦绣和宁安福瑞祥")
# Words of an address and of a form of address, which say what stands there, not who or where.
_KEPT_WORDS = _words(
    "mr mrs ms miss dr prof professor doctor nurse sir madam jr sr st street road rd avenue ave "
    "lane ln drive dr boulevard blvd court ct place pl square way close crescent terrace highway "
    "hwy parkway apartment apt suite ste unit floor room building block box po county city north "
    "south east west upper lower and of the de la der den van von di da"
)
_KEPT_HAN = frozenset(
    "省市自治区县州旗镇乡村路街道巷弄号楼栋座层单元室院里胡同医生护士先生女士主任"
)
# What may stay in a person's name: a form of address at its beginning, or after it in Chinese.
TITLES = frozenset(_words("mr mrs ms mx miss dr prof professor doctor nurse sir madam"))
HAN_TITLES = ("先生", "女士", "医生", "护士", "主任")
_WORD = re.compile(r"[^\W\d_]+|[0-9]+")


def name(secret: bytes, value: str, attempt: int) -> str:
    """A person's name, word for word: `Smith` is the same in `John Smith` and in `Dr. Smith`."""
    first = _WORD.search(value)
    title = first.end() if first and first[0].lower() in TITLES else 0
    return value[:title] + _WORD.sub(
        lambda word: _word_of_name(secret, word[0], attempt), value[title:]
    )


def shares_a_word(value: str, made: str) -> bool:
    """Whether a word of two letters or a Han character of `value`, no title, stands in `made`."""
    return bool(_telling(value) & _telling(made))


def _telling(value: str) -> set[str]:
    words = [word[0].casefold() for word in _WORD.finditer(value)]
    if words and words[0] in TITLES:
        del words[0]
    telling: set[str] = set()
    for word in words:
        if _is_han(word):
            telling.update(_without_title(word)[0])
        elif len(word) > 1 and word.isalpha():
            telling.add(word)
    return telling


def _without_title(word: str) -> tuple[str, str]:
    """A Chinese name, and the form of address after it."""
    title = next((title for title in HAN_TITLES if word.endswith(title)), "")
    return word.removesuffix(title), title


def place(secret: bytes, value: str, attempt: int) -> str:
    """A place or address: words that say what it is stay, numbers and names are others."""
    return _WORD.sub(lambda word: _word_of_place(secret, word[0], attempt), value)


def in_script(draw: Draw, character: str) -> str:
    """A letter of the same script and case as `character`; the same kind of one where possible."""
    return draw.pick(_likes(character))


def _word_of_name(secret: bytes, word: str, attempt: int) -> str:
    draw = Draw(secret, "PERSON", word, attempt)
    if _is_han(word):
        return _han_name(secret, word, attempt)
    if word == "s":
        return word
    if (not word.isascii() and not _is_latin(word)) or len(word) == 1 or word.isdecimal():
        return _letters(draw, word)
    return _cased(_other(draw, LATIN_NAMES, word), word)


def _han_name(secret: bytes, word: str, attempt: int) -> str:
    """The surname is replaced by itself, so that a family stays one; the rest as a whole."""
    word, title = _without_title(word)
    if not word:
        return title
    length = 2 if word[:2] in HAN_COMPOUND else 1
    surname, given = word[:length], word[length:]
    made = _other(Draw(secret, "surname", surname, attempt), HAN_SURNAMES, surname)
    draw = Draw(secret, "given", given, attempt)
    return made + "".join(_other(draw, HAN_GIVEN, c) for c in given) + title


def _word_of_place(secret: bytes, word: str, attempt: int) -> str:
    draw = Draw(secret, "LOCATION", word, attempt)
    if word.isdecimal():
        # No postal code of the United States or of China begins with 000.
        return "000" + draw.digits(len(word) - 3) if len(word) > 4 else _letters(draw, word)
    if _is_han(word):
        return "".join(c if c in _KEPT_HAN else _other(draw, HAN_PLACES, c) for c in word)
    if word.lower() in _KEPT_WORDS:
        return word
    if not _is_latin(word) or len(word) == 1:
        return _letters(draw, word)
    return _cased(_other(draw, LATIN_PLACES, word), word)


def _other(draw: Draw, items: tuple[str, ...], than: str) -> str:
    """One of `items` that is not `than`."""
    while True:
        item = draw.pick(items)
        if item.casefold() != than.casefold():
            return item


def _cased(made: str, like: str) -> str:
    if like.isupper():
        return made.upper()
    return made.lower() if like.islower() else made


def _letters(draw: Draw, word: str) -> str:
    return "".join(in_script(draw, character) for character in word)


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "?").partition(" ")[0]


@lru_cache(maxsize=4096)
def _likes(character: str) -> tuple[str, ...]:
    """Letters near `character` of its script and case; for a digit the ten digits."""
    if character.isdecimal():
        return tuple("0123456789")
    if character.isascii():
        return tuple(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if character.isupper() else "abcdefghijklmnopqrstuvwxyz"
        )
    begin = ord(character) // 64 * 64
    near = [chr(code) for code in range(begin, begin + 64) if not 0xD800 <= code < 0xE000]
    kind, script = unicodedata.category(character), _script(character)
    found = tuple(c for c in near if unicodedata.category(c) == kind and _script(c) == script)
    return tuple(c for c in found if c != character) or ("x",)


def _is_han(word: str) -> bool:
    return all(_script(character) == "CJK" for character in word)


def _is_latin(word: str) -> bool:
    return all(_script(character) == "LATIN" for character in word)
