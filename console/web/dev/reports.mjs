// Canned reports for development.

const claim = (text, ...citations) => ({ text, citations });

export function reportFor(image, llm) {
  const refused = image.number % 7 === 6;
  const base = {
    language: "ko", kind: llm ? "model" : "extractive", degraded: llm ? null : "no_llm", refused,
    refusal_reason: refused ? "no_match" : null, symptom: [], severity: refused ? "unknown" : "medium",
    immediate_action: [], probable_causes: [], checks: [], corrective_action: [], prevention: [],
    safety_notes: [], similar_cases: [], citations: [], model: llm ? "qwen3-4b" : "extractive",
    prompt_version: "3", index_version: "12",
  };
  if (refused) return base;
  return {
    ...base,
    symptom: [claim("표면 상단에 길이 약 60 px의 선형 긁힘이 보입니다.", "1")],
    immediate_action: [
      claim("해당 로트를 격리하고 직전 부품 5개를 다시 검사하십시오.", "1"),
      claim("이송 롤러 R3를 정지하고 표면 이물을 확인하십시오.", "2"),
    ],
    probable_causes: [
      { cause: "이송 롤러 R3에 붙은 금속 조각", evidence: "긁힘이 이송 방향과 나란합니다", rank: 1, citations: ["2"] },
      { cause: "가이드 레일 간격이 0.2 mm 이상 벗어남", evidence: null, rank: 2, citations: ["3"] },
    ],
    checks: [claim("롤러 R3 표면을 손전등으로 비추어 돌기를 확인합니다.", "2")],
    corrective_action: [claim("롤러를 IPA로 닦고 마모가 0.1 mm를 넘으면 교체합니다.", "2")],
    prevention: [claim("교대마다 롤러 청소를 점검표에 기록합니다.", "3")],
    safety_notes: [claim("롤러를 만지기 전에 반드시 전원을 차단하고 잠금 장치를 거십시오.", "1")],
    similar_cases: [{ case_id: "case-1-0", defect_type: "scratch", similarity: 0.94, action_taken: "이송 롤러 이물 제거" }],
    citations: [
      { id: "1", document: "병뚜껑 불량 대응 매뉴얼", revision: "C", page: 4, section: "2.1 긁힘", quote: "긁힘이 확인되면 해당 로트를 격리하고 직전 부품 5개를 다시 검사한다.", manual_id: "m1" },
      { id: "2", document: "병뚜껑 불량 대응 매뉴얼", revision: "C", page: 5, section: "2.2 이송부", quote: "이송 롤러 R3의 이물은 선형 긁힘의 가장 흔한 원인이다. 마모가 0.1 mm를 넘으면 교체한다.", manual_id: "m1" },
      { id: "3", document: "Conveyor maintenance", revision: "2", page: 11, section: "Guides", quote: "Keep the guide gap within 0.2 mm and record roller cleaning each shift.", manual_id: null },
    ],
  };
}

const SECTIONS = [
  ["immediate_action", "immediate_action"], ["symptom", "symptom"], ["causes", "probable_causes"],
  ["checks", "checks"], ["correction", "corrective_action"], ["prevention", "prevention"], ["safety", "safety_notes"],
];

export function sentencesFor(report) {
  return SECTIONS.flatMap(([section, field]) =>
    report[field].map((item) => ({ section, sentence: item.text ?? item.cause, citations: item.citations })),
  );
}

export const MANUAL_PAGE = `2.1 긁힘

표면에 선형의 흠이 보이면 긁힘으로 본다. 긁힘이 확인되면 해당 로트를 격리하고
직전 부품 5개를 다시 검사한다. 검사 결과는 교대 일지에 적는다.

주의: 롤러를 만지기 전에 반드시 전원을 차단하고 잠금 장치를 건다.`;
