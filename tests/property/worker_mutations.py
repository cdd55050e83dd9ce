"""One-line mutations of the shipped worker, each with the promise that must catch it."""

from __future__ import annotations

from typing import NamedTuple

_FAILURES = "tests/scenario/test_worker_failures.py::"
_FLOW = "tests/scenario/test_worker_flow.py::"
_HANDOVER = "tests/scenario/test_worker_handover.py::"
_WATCHDOG = "tests/scenario/test_worker_watchdog.py::"
_METRICS = "tests/scenario/test_worker_metrics.py::"


class Mutation(NamedTuple):
    """In `file`, `shipped` becomes `mutant`; then `caught_by` must fail."""

    name: str
    file: str
    shipped: str
    mutant: str
    caught_by: str


MUTATIONS = (
    Mutation(
        "offsets are freed before outputs are acknowledged",
        "pipeline/dispatch.py",
        "self._outgoing.append(work)",
        "self._outgoing.append(work); work.partition.tracker.finish(work.offset)",
        _HANDOVER + "test_a_stop_commits_nothing_that_was_not_acknowledged",
    ),
    Mutation(
        "bare commit: what was fetched is committed",
        "pipeline/work.py",
        "offset = self.tracker.frontier",
        "offset = self.tracker._next",
        _FLOW + "test_a_slow_load_delays_only_its_own_key",
    ),
    Mutation(
        "the frontier passes unfinished offsets",
        "pipeline/offsets.py",
        "if not unfinished or unfinished[0] != offset:",
        "if not unfinished:",
        _FLOW + "test_a_slow_load_delays_only_its_own_key",
    ),
    Mutation(
        "ack on error",
        "pipeline/dispatch.py",
        "self._hold(work, verdict, error)",
        "self.finished(work, ordered=False)",
        _FAILURES + "test_a_transient_failure_is_retried_and_later_events_of_its_key_wait",
    ),
    Mutation(
        "poison is swallowed",
        "pipeline/dispatch.py",
        "work.message = seal(self.stage, work.record, letter)",
        "pass",
        _FAILURES + "test_a_poison_image_does_not_bury_its_batch",
    ),
    Mutation(
        "a failed batch is buried whole",
        "pipeline/batching.py",
        "or len(span) == 1:",
        "or True:",
        _FAILURES + "test_a_poison_image_does_not_bury_its_batch",
    ),
    Mutation(
        "results are not counted",
        "pipeline/batching.py",
        "if len(results) != len(items):",
        "if False:",
        _FAILURES + "test_an_infer_that_returns_too_few_results_buries_only_what_it_cannot_answer",
    ),
    Mutation(
        "a transient failure is buried at once",
        "pipeline/retries.py",
        'delay_s, reason = ladder.delay_s(attempts), "retries_exhausted"',
        'delay_s, reason = None, "retries_exhausted"',
        _FAILURES + "test_a_transient_failure_is_retried_and_later_events_of_its_key_wait",
    ),
    Mutation(
        "attempts are not counted",
        "pipeline/dispatch.py",
        "work.attempts += 1",
        "work.attempts += 0",
        _FAILURES + "test_an_exception_nobody_named_is_tried_three_times_then_buried_as_a_bug",
    ),
    Mutation(
        "an outage counts attempts",
        "pipeline/retries.py",
        "case DependencyDownError(dependency=dependency):",
        "case DependencyDownError(dependency=dependency) if False:",
        _FAILURES + "test_an_outage_buries_nothing_counts_nothing_and_heals_by_itself",
    ),
    Mutation(
        "a half-open breaker lets everything through",
        "pipeline/breaker.py",
        "return self._probe is None and now >= (self.retry_at or 0.0)",
        "return now >= (self.retry_at or 0.0)",
        "tests/property/test_worker_parts.py::"
        "test_one_probe_at_a_time_goes_through_a_half_open_breaker",
    ),
    Mutation(
        "the probe of a breaker is forgotten",
        "pipeline/dispatch.py",
        "for due in (self._held.next_due, self.breakers.retry_at):",
        "for due in (self._held.next_due,):",
        _FAILURES + "test_a_probe_goes_in_time_although_a_held_event_is_due_before",
    ),
    Mutation(
        "waiting for a time counts as an attempt",
        "pipeline/retries.py",
        "return Wait((due - now).total_seconds(), counted=False)",
        "return Wait((due - now).total_seconds(), counted=True)",
        _FAILURES + "test_not_before_holds_an_event_without_counting_an_attempt",
    ),
    Mutation(
        "events that wait behind a failed one take the place of others",
        "pipeline/work.py",
        "return self.fence is not None and work.offset > self.fence.offset",
        "return False",
        _FAILURES + "test_other_keys_flow_past_any_number_of_events_that_wait_behind_a_failed_one",
    ),
    Mutation(
        "whoever is loaded first goes first",
        "pipeline/dispatch.py",
        "work.line.release(self.ready.append)",
        "(work.line.waiting.remove(work), self.ready.append(work))",
        _FLOW + "test_outputs_of_a_key_keep_their_order_although_loads_end_in_any_order",
    ),
    Mutation(
        "an output overtakes one whose saving failed",
        "pipeline/dispatch.py",
        "if ordered and work.line.overtakes(work):",
        "if False:",
        _FAILURES + "test_order_of_a_key_holds_when_saving_fails_after_others_were_computed",
    ),
    Mutation(
        "held events have no limit",
        "pipeline/reading.py",
        "or (partition.fenced and partition.held >= limit)",
        "or False",
        _FAILURES + "test_at_most_so_many_events_are_held_per_partition_then_it_pauses",
    ),
    Mutation(
        "requests wait behind the backlog",
        "pipeline/intake.py",
        "return self._priority if work.record.topic in self._topics else self._backlog",
        "return self._backlog",
        _FLOW + "test_requests_are_taken_before_the_backlog",
    ),
    Mutation(
        "a refused dead letter is not the end",
        "pipeline/publishing.py",
        "if work.is_letter:",
        "if False:",
        _FAILURES
        + "test_a_dead_letter_that_cannot_be_published_stops_the_worker_and_loses_nothing",
    ),
    Mutation(
        "a drain waits for nobody",
        "pipeline/draining.py",
        "timeout_s=self.budget_s,",
        "timeout_s=0.0,",
        _HANDOVER + "test_a_stop_finishes_started_work_and_commits_it",
    ),
    Mutation(
        "a drain commits unfinished work",
        "pipeline/work.py",
        "offset = self.tracker.frontier",
        "offset = self.tracker._next if at_rest else self.tracker.frontier",
        _HANDOVER + "test_work_that_outlasts_the_budget_is_abandoned_and_redelivered",
    ),
    Mutation(
        "a drain does not commit",
        "pipeline/draining.py",
        "await self._committer.commit(going, at_rest=True)",
        "pass",
        _HANDOVER + "test_an_orderly_stop_is_no_crash_in_the_journal",
    ),
    Mutation(
        "works of a former generation keep their place",
        "pipeline/dispatch.py",
        "for work in self.ready.remove(partition):",
        "for work in ():",
        _HANDOVER + "test_a_rebalance_that_gives_everything_back_starts_a_new_generation",
    ),
    Mutation(
        "the journal is ignored",
        "pipeline/worker.py",
        "if self._dispatch.careful:",
        "if False:",
        _HANDOVER + "test_a_record_that_kills_the_process_is_found_and_buried_and_only_that_one",
    ),
    Mutation(
        "an orderly stop counts as a crash",
        "pipeline/journal.py",
        "return self._text(max(0, self.starts - 1))",
        "return self._text(self.starts)",
        _HANDOVER + "test_an_orderly_stop_is_no_crash_in_the_journal",
    ),
    Mutation(
        "a stage that buries everything goes on",
        "pipeline/burial.py",
        "self._row += 1",
        "self._row += 0",
        _FAILURES + "test_a_stage_that_would_bury_everything_is_stopped",
    ),
    Mutation(
        "a frozen member is never judged",
        "pipeline/watchdog.py",
        "return self._mute(now) or self._outsider(view, now) or self._deaf(view)",
        "return None",
        _WATCHDOG + "test_a_frozen_member_is_replaced_and_nothing_is_lost_or_doubled",
    ),
    Mutation(
        "a paused partition counts as deaf",
        "pipeline/watchdog.py",
        "waits = place not in self.paused and",
        "waits =",
        _WATCHDOG + "test_ten_minutes_of_slow_inference_are_no_freeze",
    ),
    Mutation(
        "new members may freeze for ever",
        "pipeline/watchdog.py",
        "return self._in_a_row >= self._policy.rebuilds",
        "return False",
        _WATCHDOG + "test_when_new_members_freeze_as_well_the_worker_leaves_and_says_why",
    ),
    Mutation(
        "a member without partitions counts as frozen",
        "pipeline/watchdog.py",
        "view.assigned != self.owned",
        "not view.assigned",
        _WATCHDOG + "test_a_member_without_partitions_in_a_stable_group_is_no_freeze",
    ),
    Mutation(
        "a broker that is away at the start ends the worker",
        "pipeline/guard.py",
        "with contextlib.suppress(DependencyDownError):",
        "with contextlib.suppress():",
        _WATCHDOG + "test_a_broker_that_is_away_for_an_hour_is_waited_for_also_at_the_start",
    ),
    Mutation(
        "an outage that lasts ends the worker",
        "pipeline/publishing.py",
        "if isinstance(error, DependencyDownError):",
        "if False:",
        _WATCHDOG + "test_a_broker_that_is_away_for_an_hour_is_waited_for_also_at_the_start",
    ),
    Mutation(
        "age is that of the newest record",
        "pipeline/work.py",
        "while len(appended) > 1 and frontier is not None and appended[1][0] <= frontier:",
        "while len(appended) > 1:",
        _METRICS + "test_age_and_lag_are_those_of_the_lowest_record_that_is_not_settled",
    ),
    Mutation(
        "what was not read has no age",
        "pipeline/reporting.py",
        "seen = await self._look(lasting, ends)",
        "seen = {}",
        _METRICS + "test_the_age_of_what_was_never_read_comes_from_a_look_at_the_log",
    ),
)
