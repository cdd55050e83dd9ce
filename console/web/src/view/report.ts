// A report as the card shows it: the same sections whether it is streaming or final.
import type { Claim, Report } from "../generated/events";
import { sentencesOf, type Section, type StreamedReport } from "../record/streamed";

export interface Line {
  readonly text: string;
  readonly evidence: string | null;
  readonly citations: readonly string[];
}

export interface ReportSection {
  readonly section: Section;
  readonly lines: readonly Line[];
}

/** Safety stands next to what is to be done at once. */
export const SECTION_ORDER: readonly Section[] = [
  "immediate_action",
  "safety",
  "symptom",
  "causes",
  "checks",
  "correction",
  "prevention",
];

const line = (claim: Claim): Line => ({
  text: claim.text,
  evidence: null,
  citations: claim.citations ?? [],
});

function linesOf(report: Report, section: Section): readonly Line[] {
  switch (section) {
    case "immediate_action":
      return (report.immediate_action ?? []).map(line);
    case "safety":
      return (report.safety_notes ?? []).map(line);
    case "symptom":
      return (report.symptom ?? []).map(line);
    case "causes":
      return [...(report.probable_causes ?? [])]
        .sort((a, b) => a.rank - b.rank)
        .map((cause) => ({
          text: cause.cause,
          evidence: cause.evidence ?? null,
          citations: cause.citations ?? [],
        }));
    case "checks":
      return (report.checks ?? []).map(line);
    case "correction":
      return (report.corrective_action ?? []).map(line);
    case "prevention":
      return (report.prevention ?? []).map(line);
  }
}

const withLines = (section: ReportSection): boolean => section.lines.length > 0;

export function sectionsOfReport(report: Report): readonly ReportSection[] {
  return SECTION_ORDER.map((section) => ({ section, lines: linesOf(report, section) })).filter(
    withLines,
  );
}

export function sectionsOfStream(streamed: StreamedReport): readonly ReportSection[] {
  return SECTION_ORDER.map((section) => ({
    section,
    lines: sentencesOf(streamed, section).map((item) => ({
      text: item.sentence,
      evidence: null,
      citations: item.citations ?? [],
    })),
  })).filter(withLines);
}
