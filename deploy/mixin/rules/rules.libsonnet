local terms = import '../terms.libsonnet';

{
  prometheusRules+:: {
    groups+: [
      {
        name: 'outboxd-lag',
        // Shares of time are counted in minutes.
        interval: '1m',
        rules: [
          {
            // Each relay measures the same table. One that cannot reach it lets what it saw last grow older, so that it says
            // too much and never too little: the smallest is nearest to the truth.
            record: 'outboxd:lag_seconds:min',
            expr: |||
              min by (%(by)s) (outboxd_oldest_unsent_seconds{%(selector)s})
            ||| % terms.of($._config),
          },
          {
            // Only the leader holds lanes. Two minutes bridge a takeover.
            record: 'outboxd:held_lanes:max',
            expr: |||
              max by (%(by)s, cause) (max_over_time(outboxd_held_lanes{%(selector)s}[2m]))
            ||| % terms.of($._config),
          },
          {
            // Of the messages that were acknowledged lately, the share that waited no longer than the objective allows.
            record: 'outboxd:acknowledged_within_objective:ratio_rate5m',
            expr: |||
              sum by (%(by)s) (rate(outboxd_commit_to_ack_seconds_bucket{%(selector)s, le=~"%(objectiveBucket)s"}[5m]))
              /
              sum by (%(by)s) (rate(outboxd_commit_to_ack_seconds_count{%(selector)s}[5m]))
            ||| % terms.of($._config),
          },
          {
            // Whether the objective is missed just now. Messages of held lanes count as waiting, for days if need be, and
            // have alerts of their own. So while lanes are held the lag alone proves nothing, and the objective counts as
            // missed only if most of what is published meanwhile is late, too. While operators have paused everything, what
            // waits is meant to wait.
            record: 'outboxd:lag_above_objective:bool',
            expr: |||
              (
                (outboxd:lag_seconds:min > bool %(lagObjectiveSeconds)s)
                unless on (%(by)s)
                (max by (%(by)s) (outboxd_paused{%(selector)s, scope="all"}) == 1)
                unless on (%(by)s)
                (
                  (sum by (%(by)s) (outboxd:held_lanes:max) > 0)
                  unless on (%(by)s)
                  (outboxd:acknowledged_within_objective:ratio_rate5m < 0.5)
                )
              )
              or
              (0 * outboxd:lag_seconds:min)
            ||| % terms.of($._config),
          },
          {
            record: 'outboxd:dead_letters:max',
            expr: |||
              max by (%(by)s) (outboxd_dead_letters{%(selector)s})
            ||| % terms.of($._config),
          },
          {
            record: 'outboxd:term:max',
            expr: |||
              max by (%(by)s) (outboxd_term{%(selector)s})
            ||| % terms.of($._config),
          },
        ],
      },
      {
        name: 'outboxd-lag-budget',
        interval: '1m',
        rules: [
          {
            // The share of the window in which the objective was missed. Minutes of which nothing is known count as good, so
            // that a short history is not taken for a long one.
            record: 'outboxd:lag_above_objective:share%s' % window,
            expr: |||
              clamp_max(sum_over_time(outboxd:lag_above_objective:bool[%s]) / %d, 1)
            ||| % [window, terms.minutes(window)],
          }
          for window in terms.windows($._config)
        ],
      },
    ],
  },
}
