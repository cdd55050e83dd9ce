// A report in the making: checked sentences by section, replaced by the final report.
import type { ImageExplained, ReportStreamed } from "../generated/events";

export type Section = ReportStreamed["section"];

export interface StreamedReport {
  readonly streamId: string;
  readonly startedAt: number;
  readonly sentences: readonly ReportStreamed[];
  readonly last: boolean;
}

/** The stream after one more sentence; a newer stream replaces the text, an older one is ignored. */
export function addSentence(
  held: StreamedReport | null,
  sentence: ReportStreamed,
): StreamedReport {
  const at = Date.parse(sentence.occurred_at);
  if (!held || held.streamId !== sentence.stream_id) {
    if (held && at < held.startedAt) return held;
    return {
      streamId: sentence.stream_id,
      startedAt: at,
      sentences: [sentence],
      last: sentence.last ?? false,
    };
  }
  if (held.sentences.some((known) => known.sequence === sentence.sequence)) return held;
  const sentences = [...held.sentences, sentence].sort((a, b) => a.sequence - b.sequence);
  return { ...held, sentences, last: held.last || (sentence.last ?? false) };
}

/** Sentences of one section in their order. */
export function sentencesOf(streamed: StreamedReport, section: Section): readonly ReportStreamed[] {
  return streamed.sentences.filter((item) => item.section === section && item.sentence !== "");
}

/** Whether the stream is newer than the report at hand, so that it is what should be shown. */
export function streamIsCurrent(
  streamed: StreamedReport | null,
  explained: ImageExplained | null,
): boolean {
  if (!streamed) return false;
  return !explained || streamed.startedAt > Date.parse(explained.occurred_at);
}
