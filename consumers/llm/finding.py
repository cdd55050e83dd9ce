"""What the other stages found, in words: for the query, the prompt and the report's first line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from consumers.llm.lexicon import defect_names
from schemas.anomalies import ImageScored, Region
from schemas.configuration import ProductConfigured
from schemas.embeddings import ImageEmbedded, Neighbour
from schemas.event import ImageEvent

Language = Literal["ko", "en"]

# Under this share of the votes a defect type is a guess that must not steer what people do.
MIN_VOTE = 0.5
MAX_REGIONS = 3
MAX_NEIGHBOURS = 5

_ROWS = MappingProxyType(
    {"ko": ("위쪽", "가운데", "아래쪽"), "en": ("upper", "middle", "lower")},
)
_COLUMNS = MappingProxyType(
    {"ko": ("왼쪽", "가운데", "오른쪽"), "en": ("left", "centre", "right")},
)
# What a question about an unknown defect looks for.
_GENERAL_QUERY = MappingProxyType(
    {
        "ko": "불량 결함 이상 발견 즉시 조치 부적합 처리 절차 점검 원인 재발 방지",
        "en": "defect found immediate action nonconforming part handling check cause prevention",
    }
)
_VERDICT_QUERY = MappingProxyType(
    {
        ("NG", "ko"): "불량 판정",
        ("NG", "en"): "rejected part",
        ("REVIEW", "ko"): "보류 재검 판정 기준",
        ("REVIEW", "en"): "borderline part review criteria",
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One image as the report sees it.

    `type_names` are folded names of the voted defect type, `other_names` those of the product's
    other types. `trigger` is the event that asked for the report; `embedded` is None when the
    neighbours did not come in time. Labels in file names are no part of this.
    """

    trigger: ImageEvent
    scored: ImageScored
    embedded: ImageEmbedded | None
    product: ProductConfigured
    type_names: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()

    @property
    def language(self) -> Language:
        """Language of the report."""
        return self.product.language

    @property
    def defect_type(self) -> str | None:
        """The voted type, None where the votes are too few or split."""
        return voted_type(self.embedded)

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """The most similar past cases."""
        return self.embedded.neighbours[:MAX_NEIGHBOURS] if self.embedded else ()


def voted_type(embedded: ImageEmbedded | None) -> str | None:
    """Return the defect type that the neighbours agree on, None where they do not."""
    if embedded is None or not embedded.voted_defect_type:
        return None
    confidence = embedded.voted_confidence
    return embedded.voted_defect_type if confidence is None or confidence >= MIN_VOTE else None


def names_of_type(code: str | None, known: Sequence[Mapping[str, object]] = ()) -> tuple[str, ...]:
    """Return every name of a defect type: its code, the product's own names, the lexicon's."""
    if code is None:
        return ()
    rows = [row for row in known if row.get("code") == code]
    given = [str(row[name]) for row in rows for name in ("name_ko", "name_en") if row.get(name)]
    return defect_names(code, *given)


def query_of(finding: Finding) -> str:
    """Return what to look for in the manuals."""
    language = finding.language
    parts = [*finding.type_names, *finding.type_names]
    parts.append(_VERDICT_QUERY.get((finding.scored.verdict, language), ""))
    parts.append(_GENERAL_QUERY[language])
    parts += [place_of(region, finding) for region in finding.scored.regions[:1]]
    return " ".join(part for part in parts if part)


def place_of(region: Region, finding: Finding) -> str:
    """Return where on the part a region lies, by thirds of the picture; empty if unknown."""
    image = finding.scored.subject.image
    if not image.width or not image.height:
        return ""
    row = min(2, (region.y + region.height // 2) * 3 // image.height)
    column = min(2, (region.x + region.width // 2) * 3 // image.width)
    language = finding.language
    if row == column == 1:
        return _ROWS[language][1] if language == "ko" else _COLUMNS[language][1]
    return f"{_ROWS[language][row]} {_COLUMNS[language][column]}"


def describe(finding: Finding) -> tuple[str, ...]:
    """Return the facts of the inspection, one sentence each; every number is a measured one."""
    scored = finding.scored
    korean = finding.language == "ko"
    facts = [f"판정은 {scored.verdict}이다." if korean else f"The verdict is {scored.verdict}."]
    if scored.score is not None and scored.threshold is not None:
        score, threshold = f"{scored.score:.3g}", f"{scored.threshold:.3g}"
        facts.append(
            f"이상 점수는 {score}, 기준값은 {threshold}이다."
            if korean
            else f"The anomaly score is {score}, the threshold {threshold}."
        )
    facts += [_region_fact(region, finding) for region in scored.regions[:MAX_REGIONS]]
    if not scored.regions and scored.verdict == "NG":
        facts.append("이상 위치가 불명확하다." if korean else "The location is unclear.")
    defect_type = finding.defect_type
    if defect_type:
        facts.append(
            f"비슷한 과거 사례의 불량 유형은 {defect_type}이다 (참고)."
            if korean
            else f"Similar past cases are of type {defect_type} (a hint)."
        )
    return tuple(facts)


def _region_fact(region: Region, finding: Finding) -> str:
    size = f"{region.width} x {region.height} px"
    place = place_of(region, finding)
    if finding.language == "ko":
        return f"{place}에 {size} 크기의 이상 영역이 있다." if place else f"이상 영역은 {size}이다."
    return f"A suspicious region of {size} lies {place}." if place else f"A region of {size}."
