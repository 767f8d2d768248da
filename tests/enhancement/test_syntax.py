"""The syntax of prompts: what UIs take for themselves, what their text encoder reads, and what is plain text."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.enhancement.syntax import encoded, parse
from tests.support.enhancing import TEXTS

#: a prompt as people write it, what the encoder reads of it, and its syntax
CASES = [
    # A1111 and ComfyUI: weights
    ("a fox, (golden hour:1.3)", "a fox, golden hour", ["weight (golden hour:1.3)"]),
    ("((ultra sharp)), a fox", "ultra sharp, a fox", ["weight ((ultra sharp))"]),
    ("(((sky))) over a hill", "sky over a hill", ["weight (((sky)))"]),
    ("[[crowd]] on a square", "crowd on a square", ["weight [[crowd]]"]),
    ("(rain: 0.8) on glass", "rain on glass", ["weight (rain: 0.8)"]),
    ("(rain:.8), (fog:-1)", "rain, fog", ["weight (rain:.8)", "weight (fog:-1)"]),
    ("(2b, nier automata:1.1)", "2b, nier automata", ["weight (2b, nier automata:1.1)"]),
    ("(route 66:1.2) at noon", "route 66 at noon", ["weight (route 66:1.2)"]),
    ("(a (b:1.2), c (d:0.9):1.1) e", "a b, c d e", ["weight (a (b:1.2), c (d:0.9):1.1)"]),
    ("(portrait of (an old man:1.2))", "portrait of an old man", ["weight (portrait of (an old man:1.2))"]),
    ("[(soft:1.2) focus]", "soft focus", ["weight [(soft:1.2) focus]"]),
    (
        "a woman, (detailed face, (green eyes:1.2):1.1), forest",
        "a woman, detailed face, green eyes, forest",
        ["weight (detailed face, (green eyes:1.2):1.1)"],
    ),
    ("(a photo of (a dog) running:1.2)", "a photo of (a dog) running", ["weight (a photo of (a dog) running:1.2)"]),
    ("(red hair,\nblue coat:1.2)", "red hair,\nblue coat", ["weight (red hair,\nblue coat:1.2)"]),
    # schedules and alternations; of the options the longest
    ("a [fox:snow leopard:0.5] runs", "a snow leopard runs", ["schedule [fox:snow leopard:0.5]"]),
    ("a hill [with ruins:10]", "a hill with ruins", ["schedule [with ruins:10]"]),
    ("a hill [with ruins::0.6]", "a hill with ruins", ["schedule [with ruins::0.6]"]),
    ("[a:[bee:cat:0.7]:0.3]", "bee", ["schedule [a:[bee:cat:0.7]:0.3]"]),
    ("[mist:heavy snow:0.2,0.8]", "heavy snow", ["schedule [mist:heavy snow:0.2,0.8]"]),
    ("a large [dog:grey cat:SECOND_PASS]", "a large grey cat", ["schedule [dog:grey cat:SECOND_PASS]"]),
    ("[SEQ:red:0.2:dark green:0.5]", "dark green", ["schedule [SEQ:red:0.2:dark green:0.5]"]),
    ("[<lora:ink:1>::0.5] a fox", " a fox", ["schedule [<lora:ink:1>::0.5]"]),
    ("a [cow|horse] in a field", "a horse in a field", ["alternation [cow|horse]"]),
    ("[a|(bee:1.1)|c]", "bee", ["alternation [a|(bee:1.1)|c]"]),
    ("[day|night sky:0.05]", "night sky", ["alternation [day|night sky:0.05]"]),
    # tags: they cost nothing
    ("a fox <lora:ink_v2:0.8>", "a fox ", ["tag <lora:ink_v2:0.8>"]),
    ("<lora:dir/My Style (v2):0.6:0.4>a fox", "a fox", ["tag <lora:dir/My Style (v2):0.6:0.4>"]),
    ("<hypernet:anime:0.3><lyco:x:1> a fox", " a fox", ["tag <hypernet:anime:0.3>", "tag <lyco:x:1>"]),
    ("a fox, embedding:easynegative", "a fox, ", ["tag embedding:easynegative"]),
    ("(embedding:dir/skin.pt:1.2) face", " face", ["weight (embedding:dir/skin.pt:1.2)"]),
    ("<embed:skin> <trigger>, a fox", " , a fox", ["tag <embed:skin>", "tag <trigger>"]),
    ("a <cat-toy> on a shelf", "a <cat-toy> on a shelf", ["token <cat-toy>"]),
    ("MASK(0 0.5, 0 1) a cat", " a cat", ["tag MASK(0 0.5, 0 1)"]),
    # SwarmUI
    ("a <random:red, dark blue> car", "a dark blue car", ["variants <random:red, dark blue>"]),
    ("<random:a, b|c>", "a, b", ["variants <random:a, b|c>"]),
    ("<random[1-2]:red|green|blue>", "green blue", ["variants <random[1-2]:red|green|blue>"]),
    ("<alternate:cat || snow dog>", "snow dog", ["alternation <alternate:cat || snow dog>"]),
    ("<fromto[0.5]:cat, puppy>", "puppy", ["schedule <fromto[0.5]:cat, puppy>"]),
    ("a <wildcard:animals/wild,not=cat>", "a animals wild", ["wildcard <wildcard:animals/wild,not=cat>"]),
    (
        "<setvar[c]:<random:red, blue>> hair, <var:c> coat",
        "blue hair, c coat",
        ["variable <setvar[c]:<random:red, blue>>", "variable <var:c>"],
    ),
    ("<setvar[c,false]:red> a fox", " a fox", ["variable <setvar[c,false]:red>"]),
    ("<repeat[1-3]:big> dog", "big big big dog", ["variable <repeat[1-3]:big>"]),
    (
        "a man <segment:face,0.6,0.5> a detailed face",
        "a man  a detailed face",
        ["section <segment:face,0.6,0.5>"],
    ),
    ("a cat <video> it walks", "a cat  it walks", ["section <video>"]),
    ("<region:0,0,0.5,1> a cat <break> x", " a cat  x", ["section <region:0,0,0.5,1>", "section <break>"]),
    (
        "<param[CFG Scale]:5> a fox <comment:try (this)>",
        " a fox ",
        ["tag <param[CFG Scale]:5>", "tag <comment:try (this)>"],
    ),
    # dynamic prompts
    (
        "a {red|blue|green} car on a __location__ street",
        "a green car on a location street",
        ["variants {red|blue|green}", "wildcard __location__"],
    ),
    ("{0.5::summer|0.1::late autumn}", "late autumn", ["variants {0.5::summer|0.1::late autumn}"]),
    ("{2$$red|pink|white} rose", "white, pink rose", ["variants {2$$red|pink|white}"]),
    ("{1-2$$ and $$mint|lime|plum}", "mint and lime", ["variants {1-2$$ and $$mint|lime|plum}"]),
    ("{-2$$mint|lime|plum}", "mint, lime", ["variants {-2$$mint|lime|plum}"]),
    ("{2$$__flavours__}", "flavours", ["variants {2$$__flavours__}"]),
    ("{{rose|yellow} gold|tin} ring", "yellow gold ring", ["variants {{rose|yellow} gold|tin}"]),
    ("{red||a very long one}", "a very long one", ["variants {red||a very long one}"]),
    ("{\n summer\n|autumn\n}", "summer", ["variants {\n summer\n|autumn\n}"]),
    ("__colours*__ coat, __a/b-c__", "colours coat, a b c", ["wildcard __colours*__", "wildcard __a/b-c__"]),
    (
        "${s=!{hot|cold}} in ${s} rain, ${t:dry}",
        " in s rain, dry",
        ["variable ${s=!{hot|cold}}", "variable ${s}", "variable ${t:dry}"],
    ),
    # parts that keep their place
    ("a girl in red BREAK a boy in blue", "a girl in red  a boy in blue", ["keyword BREAK"]),
    ("a cat AND a dog", "a cat  a dog", ["keyword AND"]),
    (
        "a cat :1.2 AND a dog:0.5",
        "a cat   a dog",
        ["keyword :1.2", "keyword AND", "keyword :0.5"],
    ),
    ("sky ADDCOL sea ADDROW sand", "sky  sea  sand", ["keyword ADDCOL", "keyword ADDROW"]),
    ("[0s] a forest\n[5.5s] a deer", " a forest\n a deer", ["time [0s]", "time [5.5s]"]),
    ("[1s-3s: he waves, then sits]", "he waves, then sits", ["time [1s-3s: he waves, then sits]"]),
    ("[00:05] a deer", " a deer", ["time [00:05]"]),
    (
        "(at 2 seconds: he drinks, slowly)",
        "(at 2 seconds: he drinks, slowly)",
        ["time (at 2 seconds: he drinks, slowly)"],
    ),
    ('! {Who}="cat","dog"\na {Who} runs', "\na Who runs", ['macro ! {Who}="cat","dog"', "variable {Who}"]),
    # escaped
    (r"saber \(fate, stay night\)", "saber (fate, stay night)", [r"escaped \(fate, stay night\)"]),
    (r"(saber \(fate\):1.2)", "saber (fate)", [r"weight (saber \(fate\):1.2)"]),
    (r"a \[note\] and \(", "a [note] and (", [r"escaped \[note\]"]),
    (r"\\o/ a \{set\}", r"\o/ a {set}", []),
    # several together
    (
        "masterpiece, (1girl:1.2), [red|blue] eyes, <lora:x:0.7>, BREAK, __pose__",
        "masterpiece, 1girl, blue eyes, , , pose",
        ["weight (1girl:1.2)", "alternation [red|blue]", "tag <lora:x:0.7>", "keyword BREAK", "wildcard __pose__"],
    ),
    (
        "({red|dark blue} car:1.2) <lora:[a|b]:1>",
        "dark blue car ",
        ["weight ({red|dark blue} car:1.2)", "tag <lora:[a|b]:1>"],
    ),
    ("([cat|dog]:1.3), a (very (big) one)", "cat, a (very (big) one)", ["weight ([cat|dog]:1.3)"]),
    ("(plain {a|bee} text)", "(plain bee text)", ["variants {a|bee}"]),
    ("(open (rain:1.2) and ]", "(open rain and ]", ["weight (rain:1.2)"]),
    ("a girl :) in (rain:1.3), (smiling :)", "a girl :) in rain, (smiling :)", ["weight (rain:1.3)"]),
]

PLAIN = [
    "a fox", "", "(a photo)", "a (red) car", "[red] car", ":) and :-( and ;)", ":) (", "12:30", "(12:30)", "(at 12:30)",
    "at 12:30, 16:9", "(16:9)", "[16:9]", "(2.39:1)", "aspect ratio (16:9)", "(year: 1998)", "(age: 45)", "(score:95)",
    "((", "))", "(((a)", "[[a]", "(a [b) c]", "{", "}", "{}", "()", "[]", "<>", "< a >", "a <3 b", "a < b, c > d",
    "https://example.org/a_(b)?c={d|e}&f=__g__", "see https://example.org/[x:1].", "`(a:1.2) {b|c}`", "```\n{a|b}\n```",
    "if (a) { return b || c; }", '{"prompt": "a fox", "n": 2}', "<b>bold</b> and <i>so</i>", "<|im_end|>", "a -> b",
    "snake__case__name", "____", "__ a __", "\uff08红色：1.2\uff09的狐狸", "【猫|狗】", "「猫：1.2」", "BREAKFAST",
    "CATS AND DOGS", "a sign “LUNCH BREAK”", 'a sign "BREAK"', "(:1.2)", "(1:2)", "[:5]", "[1|]", "a | b", "x: 0.5",
    "f/1.8, 35mm: sharp", "(smile :) and (wave", "[Verse]\nrain", "Speaker 1: hello", "$5 {", "C:\\dir\\file",
]  # fmt: skip


def syntax_of(text: str) -> list[str]:
    return [f"{one.kind} {text[one.start : one.end]}" for one in parse(text).elements]


@pytest.mark.parametrize(("text", "read", "syntax"), CASES, ids=[case[0] for case in CASES])
def test_what_a_ui_takes_is_found_and_the_rest_is_what_the_encoder_reads(
    text: str, read: str, syntax: list[str]
) -> None:
    assert syntax_of(text) == syntax
    assert encoded(text) == read


@pytest.mark.parametrize("text", PLAIN)
def test_text_that_no_ui_would_take_is_plain(text: str) -> None:
    assert syntax_of(text) == []
    assert encoded(text) == text


def test_brackets_of_plain_text_are_not_broken_and_have_their_syntax_told() -> None:
    text = "a woman (red hair, {green|blue} eyes), forest (dark,\ndeep)"
    parsed = parse(text)
    assert [text[start:end] for start, end in parsed.plain] == ["(red hair, {green|blue} eyes)"]
    assert [text[start:end] for start, end in parsed.unbroken] == ["{green|blue}", "(red hair, {green|blue} eyes)"]


def test_what_parts_texts_is_positional_and_nothing_else() -> None:
    text = "a BREAK b <segment:face> c [5s] d (e:1.2) <lora:f:1> (at 3 seconds: g)"
    assert [one.is_positional for one in parse(text).elements] == [True, True, True, False, False, True]


#: pieces of every kind, in any order
PIECES = st.lists(
    st.sampled_from(["(", ")", "[", "]", "{", "}", "<lora:", "<random:", ">", "|", ":", "1.2", "0.5", "cat", "red fox",
                     " ", "\\(", "\\)", "BREAK", " AND ", "__x__", "2$$", "${", "=", "\n", "[5s]", "`", "::"])
    | st.sampled_from([case[0] for case in CASES]),
    max_size=40,
).map("".join)  # fmt: skip


@given(PIECES | TEXTS)
@example("(" * 200 + "a:1.2" + ")" * 200)
@example("<repeat[9999]:" * 30 + "big cat" + ">" * 30)
def test_any_text_is_read_and_its_syntax_is_in_order_and_apart(text: str) -> None:
    parsed = parse(text)
    behind = 0
    for one in parsed.elements:
        assert behind <= one.start < one.end <= len(text)
        behind = one.end
    assert len(parsed.encoded) <= len(text) + 1000 * text.count("<repeat")
    assert parsed == parse(text)


@given(PIECES | TEXTS)
def test_text_outside_the_syntax_is_read_as_it_stands(text: str) -> None:
    outside, behind = [], 0
    for one in parse(text).elements:
        outside += [text[behind : one.start], one.words]
        behind = one.end
    whole = "".join([*outside, text[behind:]])
    # A backslash before a bracket or mark is left out.
    assert encoded(text) == re.sub(r"\\(?=[\\{}<>|:])", "", whole) or "\\" in text


@given(st.lists(st.sampled_from(["a fox", "red rain", "2 cats", "soft light"]), min_size=1, max_size=6), st.data())
def test_what_was_put_around_words_is_taken_off_again(words: list[str], data: st.DataObject) -> None:
    wraps = ["@", "(@:1.2)", "((@))", "[x|@]", "[x:@:0.5]", "{x|@}", "<random:x, @>", "(@:0.9)<lora:a:1>"]
    for _ in range(data.draw(st.integers(0, 3))):
        words = [data.draw(st.sampled_from(wraps)).replace("@", word) for word in words]
    plain = [re.findall(r"a fox|red rain|2 cats|soft light", word)[0] for word in words]
    assert encoded(" and ".join(words)) == " and ".join(plain)
