"""The sample products: names, defect types, and what was done about past cases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DefectType:
    """A named defect; `actions` are what past cases record as done, in Korean."""

    code: str
    name_ko: str
    name_en: str
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampleProduct:
    """A product of the samples; `manuals` is the stem of its texts in this package."""

    code: str
    name: str
    name_en: str
    manuals: str
    defect_types: tuple[DefectType, ...]

    def defect_type(self, code: str) -> DefectType:
        """Look a defect type up by its code."""
        return next(item for item in self.defect_types if item.code == code)


SOLAR_CELL = SampleProduct(
    "solar-cell",
    "단결정 태양전지 셀",
    "Monocrystalline solar cell",
    "solar-cell",
    (
        DefectType(
            "cell_defect",
            "셀 결함",
            "Cell defect",
            (
                "해당 셀 폐기, 같은 스트링 셀 6장 EL 재촬영. 이상 없음",
                "태빙 헤드 압력 0.32 → 0.26 MPa로 조정 후 20장 연속 확인",
                "적층 이송 흡착 패드 2개 교체, 이후 200장 재발 없음",
                "모듈 리워크에서 셀 교체, 납땜 온도 프로파일 재측정",
            ),
        ),
    ),
)

BEARING_HOUSING = SampleProduct(
    "베어링-하우징",
    "베어링 하우징 LS-204",
    "Bearing housing LS-204",
    "bearing-housing",
    (
        DefectType(
            "scratch",
            "긁힘",
            "Scratch",
            (
                "깊이 0.04 mm 측정, 기준 초과로 폐기. 이송 트레이 칸막이 교체",
                "반전기 그리퍼에 박힌 칩 제거, 우레탄 패드 교체",
                "표면 한도 견본 대비 허용 이내, 특채 없이 리워크(#400 연마) 후 합격",
            ),
        ),
        DefectType(
            "dent",
            "찍힘",
            "Dent",
            (
                "낙하품으로 확인되어 폐기, 슈트 낙차 180 → 60 mm로 변경",
                "적재 팔레트 간격재 2개 보충, 같은 로트 30개 선별 이상 없음",
                "보스면 평면도 0.06 mm로 기준 초과, 폐기 처리",
            ),
        ),
        DefectType(
            "burr",
            "버",
            "Burr",
            (
                "보링 인서트 교체(사용 수명 420개 초과), 수동 디버링 후 재검 합격",
                "디버링 브러시 마모 확인, 교체 후 50개 연속 이상 없음",
                "볼트 구멍 면취 누락 프로그램 복구, 같은 로트 전수 면취",
            ),
        ),
    ),
)

CONNECTOR = SampleProduct(
    "커넥터-단자",
    "커넥터 단자 CN-16",
    "Connector terminal CN-16",
    "connector",
    (
        DefectType(
            "bent_pin",
            "핀 휨",
            "Bent pin",
            (
                "휨 0.35 mm로 기준 초과, 폐기. 삽입 지그 가이드 핀 마모로 교체",
                "테이프 릴 장력 재조정 후 100개 연속 좌표 검사 합격",
                "검사 소켓 정렬 0.2 mm 틀어짐 교정, 같은 로트 재선별",
            ),
        ),
        DefectType(
            "missing_pin",
            "핀 누락",
            "Missing pin",
            (
                "핀 피더 잼 제거, 누락 센서 감도 재설정. 해당 품 폐기",
                "압입 헤드 3번 펀치 파손 확인, 교체 후 초품 5개 합격",
                "릴 교환 때 공피치 12칸 발생, 이음부 배출 조건 추가",
            ),
        ),
        DefectType(
            "contamination",
            "이물",
            "Contamination",
            (
                "섬유 이물 제거 후 재검 합격, 작업 장갑을 무진 장갑으로 변경",
                "플럭스 잔사 IPA 세척 후 절연저항 500 MΩ 이상 확인",
                "사출 게이트 분진 확인, 이오나이저 노즐 청소",
            ),
        ),
    ),
)

PRODUCTS = (SOLAR_CELL, BEARING_HOUSING, CONNECTOR)
