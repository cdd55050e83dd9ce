"""Words of the shop floor, Korean and English: report sections, defects, cues.

Manuals name their sections and defects in many ways; this table is what lets "3.2 즉시 조치" and
"Immediate action" land in the same place, and a case of type `scratch` find "스크래치".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from types import MappingProxyType

from schemas.reports import Section

# Order matters: the first section whose word occurs in a heading names it, so that
# "재발 방지 대책" is prevention although "대책" alone is correction.
SECTION_WORDS: MappingProxyType[Section, tuple[str, ...]] = MappingProxyType(
    {
        "safety": ("안전", "경고", "위험", "주의 사항", "주의사항", "safety", "warning", "caution",
                   "danger", "lockout", "lock-out"),
        "prevention": ("재발", "예방", "방지", "정기 점검", "prevent", "maintenance", "recurrence"),
        "immediate_action": ("즉시", "긴급", "초동", "응급", "봉쇄", "immediate", "containment",
                             "first response", "first action", "emergency"),
        "causes": ("원인", "cause", "why"),
        "symptom": ("현상", "증상", "외관", "판별", "특징", "정의", "symptom", "appearance",
                    "what it looks like", "how to recognise", "how to recognize", "description"),
        "checks": ("점검", "확인", "검사 항목", "진단", "check", "verif", "diagnos", "inspect"),
        "correction": ("개선", "대책", "시정", "수정", "조치", "수리", "복구", "처리", "corrective",
                       "correction", "repair", "remedy", "fix", "countermeasure", "action"),
    }
)  # fmt: skip

# What a sentence says when its heading says nothing; same order of precedence.
SENTENCE_CUES: MappingProxyType[Section, tuple[str, ...]] = MappingProxyType(
    {
        "safety": ("보호구", "보호 장갑", "안전 장갑", "보안경", "감전", "전원을 차단", "화상",
                   "잠금", "lock out", "lockout", "protective", "goggles", "electric shock",
                   "burn"),
        "prevention": ("매일", "매주", "매월", "주기", "정기", "재발", "예방", "daily", "weekly",
                       "monthly", "every shift", "prevent"),
        "immediate_action": ("정지", "중단", "격리", "분리 보관", "보류", "선별", "즉시", "stop",
                             "quarantine", "segregate", "isolate", "set aside", "immediately"),
        "causes": ("원인", "때문", "의해 발생", "caused", "due to", "because", "results from"),
        "checks": ("확인", "점검", "측정", "check", "verify", "measure", "inspect"),
        "correction": ("교체", "조정", "청소", "세척", "재작업", "수리", "보정", "연마", "replace",
                       "adjust", "clean", "rework", "repair", "tighten", "re-align", "realign"),
    }
)  # fmt: skip

GENERAL_WORDS = (
    "공통", "일반", "기본", "모든 불량", "모든 결함", "전체", "개요", "부적합", "이상 발생",
    "불량 발생", "불량 처리", "미분류", "알 수 없는", "유형을 모", "general", "common",
    "any defect", "all defects", "every defect", "unknown", "unclassified", "nonconform",
    "non-conform", "overview",
)  # fmt: skip

# A text that holds none of these is no manual for a finding of which nothing else is known.
# A bare "이상" is none of them: it also means "or more".
INSPECTION_WORDS = (
    "불량", "결함", "이상 발생", "부적합", "검사", "양품", "판정", "재검", "외관", "defect",
    "reject", "nonconform", "non-conform", "inspect", "anomal", "faulty", "quality",
)  # fmt: skip

# The title of a whole document says nothing of the section below it.
TITLE_WORDS = ("매뉴얼", "지침서", "표준서", "안내서", "manual", "guide", "handbook")

# Names of one kind of defect per row; a row names the same thing in both languages.
DEFECT_WORDS: tuple[tuple[str, ...], ...] = (
    ("scratch", "스크래치", "긁힘", "흠집", "긁힌"),
    ("crack", "크랙", "균열", "금이 간"),
    ("microcrack", "micro-crack", "미세 균열", "미세균열", "마이크로 크랙", "마이크로크랙"),
    ("dent", "찍힘", "눌림", "덴트", "움푹"),
    ("stain", "얼룩", "오염", "contamination"),
    ("particle", "foreign", "이물", "이물질", "파티클"),
    ("burr", "버(burr)", "버 발생", "버르"),
    ("chip", "치핑", "깨짐", "이빠짐", "chipping"),
    ("broken", "breakage", "파손", "부러짐"),
    ("hole", "홀 불량", "구멍", "pinhole", "핀홀"),
    ("pore", "porosity", "기공", "기포", "void", "보이드", "bubble"),
    ("short shot", "short_shot", "미성형", "미충진"),
    ("flash", "플래시"),
    ("sink mark", "싱크 마크", "싱크마크", "수축"),
    ("bent", "bend", "휨", "구부러짐", "굽음", "휘어"),
    ("missing", "누락", "빠짐", "결품", "미삽"),
    ("misalign", "misplaced", "offset", "위치 어긋남", "정렬 불량", "틀어짐", "어긋남"),
    ("discolor", "discolour", "변색", "색상 불량"),
    ("corrosion", "rust", "부식"),
    ("finger interruption", "finger", "핑거", "핑거 단선"),
    ("inactive", "dead area", "비활성", "불활성"),
    ("deform", "변형", "뒤틀림", "warp"),
    ("wear", "마모"),
    ("tear", "찢김", "찢어짐", "cut", "베임"),
    ("dust", "먼지"),
    ("spot", "점상", "반점", "흑점", "black spot"),
)

_NEGATION = re.compile(
    r"않|말\s?것|마십시오|마시오|마세요|지\s?말|금지|못\s?하|없|안\s(?:되|된|됩)|아니"
    r"|\b(?:not|never|no|cannot|without|avoid|prohibited|forbidden|nor|neither)\b|n't\b",
    re.IGNORECASE,
)
_HANGUL = re.compile(r"[가-힣]")
_LETTER = re.compile(r"[^\W\d_]")


def fold(text: str) -> str:
    """Return the form in which words are compared: NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def language_of(text: str) -> str:
    """Return `ko` when at least a fifth of the letters are Hangul, else `en`."""
    letters = len(_LETTER.findall(text))
    return "ko" if letters and len(_HANGUL.findall(text)) * 5 >= letters else "en"


def is_negated(text: str) -> bool:
    """Whether a sentence forbids or denies something."""
    return _NEGATION.search(unicodedata.normalize("NFKC", text)) is not None


def contains_word(folded: str, word: str) -> bool:
    """Whether a folded text holds a word: at its beginning for Latin script, anywhere for Hangul.

    Korean particles follow a word and compounds run together; an English "chip" must not be
    found in "microchip".
    """
    if _HANGUL.search(word):
        return word in folded
    return re.search(rf"(?<![a-z]){re.escape(word)}", folded) is not None


def contains_any(folded: str, words: Iterable[str]) -> bool:
    """Whether a folded text holds one of the words."""
    return any(contains_word(folded, word) for word in words)


def section_of_heading(heading: str) -> Section | None:
    """Return the report section that a manual's heading names, None if it names none."""
    folded = fold(heading)
    for section, words in SECTION_WORDS.items():
        if contains_any(folded, words):
            return section
    return None


def section_of_sentence(sentence: str) -> Section | None:
    """Return the section that a sentence belongs to by its own words, None if they do not say."""
    folded = fold(sentence)
    for section, words in SENTENCE_CUES.items():
        if contains_any(folded, words):
            return section
    return None


def defect_names(*names: str | None) -> tuple[str, ...]:
    """Return folded names of one defect type: those given and what both languages call it."""
    found: dict[str, None] = {}
    for name in names:
        if not name:
            continue
        folded = fold(name.replace("_", " ").replace("-", " "))
        found[folded] = found[fold(name)] = None
        for row in DEFECT_WORDS:
            if any(contains_word(folded, fold(word)) for word in row):
                found.update(dict.fromkeys(fold(word) for word in row))
    return tuple(found)


def all_defect_names() -> tuple[str, ...]:
    """Every defect word of the table, folded."""
    return tuple(fold(word) for row in DEFECT_WORDS for word in row)
