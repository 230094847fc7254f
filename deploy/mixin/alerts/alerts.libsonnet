local terms = import '../terms.libsonnet';

{
  local config = $._config,
  local t = terms.of(config),

  // One alert: NAME, how grave it is, how long it must hold, what is said.
  local alert(name, severity, expr, summary, description, for_=null) = {
    alert: 'Outboxd' + name,
    expr: expr % t,
    [if for_ != null then 'for']: for_,
    labels: { severity: severity },
    annotations: {
      summary: summary,
      description: description % t,
      runbook_url: config.runbookURLPattern % ('Outboxd' + name),
    },
  },

  // The budget is spent faster than one of these factors allows.
  local burns(pairs) =
    std.join('or\n', [
      |||
        (
          outboxd:lag_above_objective:share%(long)s > %(bound)s
          and
          outboxd:lag_above_objective:share%(short)s > %(bound)s
        )
      ||| % burn { bound: '%g' % (burn.factor * (1 - config.lagObjectiveRatio)) }
      for burn in pairs
    ]),
  local longWindows(pairs) = std.join(' or ', [burn.long for burn in pairs]),

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'outboxd',
        rules: [
          alert(
            'LagBudgetBurnsFast',
            'critical',
            burns(config.burnsFast),
            'Messages wait longer than the lag objective allows, for so much of the time that its error budget is soon spent.',
            'Messages of %(outbox)s waited longer than %(lagObjectiveSeconds)s s for {{ $value | humanizePercentage }} of the last '
            + longWindows(config.burnsFast) + '.',
            '2m',
          ),
          alert(
            'LagBudgetBurnsSlowly',
            'warning',
            burns(config.burnsSlowly),
            'Messages wait longer than the lag objective allows, again and again over hours.',
            'Messages of %(outbox)s waited longer than %(lagObjectiveSeconds)s s for {{ $value | humanizePercentage }} of the last '
            + longWindows(config.burnsSlowly) + '.',
            '15m',
          ),
          alert(
            // The leader's own judgement: it alone knows what it settles. Where only held lanes wait its reads go on and find
            // nothing to do, which counts as progress; they have alerts of their own.
            'Stalled',
            'critical',
            |||
              max by (%(by)s) (
                (outboxd_lag_state{%(selector)s, state="stalled"} == 1)
                and ignoring (state)
                (outboxd_leader{%(selector)s} == 1)
                and ignoring (state)
                (changes(outboxd_last_progress_timestamp_seconds{%(selector)s}[2m]) == 0)
              )
            |||,
            'A relay leads, messages wait, and it has published nothing for more than 3 minutes.',
            'The leader of %(outbox)s has settled nothing for more than 3 minutes though messages wait.',
            '2m',
          ),
          alert(
            // While a relay cannot be scraped it may well be the leader. Then the others are asked whether what waits moves.
            'NoLeader',
            'critical',
            |||
              sum by (%(by)s) (outboxd_leader{%(selector)s}) == 0
              unless on (%(by)s)
              (
                (max by (%(by)s) (outboxd_lag_state{%(selector)s, state=~"ok|moving|paused"}) == 1)
                and on (%(target)s)
                (min by (%(target)s) (up{%(selector)s}) == 0)
              )
            |||,
            'No relay has led for 2 minutes: nothing is published.',
            'No relay of %(outbox)s leads. Nothing is published until one does.',
            '2m',
          ),
          alert(
            // A relay that has gone is remembered until its target is: up to 5 minutes where nobody marks it stale.
            'TwoLeaders',
            'critical',
            |||
              sum by (%(by)s) (outboxd_leader{%(selector)s}) > 1
            |||,
            'More than one relay of an outbox has said for 6 minutes that it leads.',
            '{{ $value }} relays of %(outbox)s say that they lead.',
            '6m',
          ),
          alert(
            'MetricsAbsent',
            'critical',
            |||
              (
                count by (%(by)s) (present_over_time(outboxd_build_info{%(selector)s}[%(absentWindow)s]))
                unless on (%(by)s)
                count by (%(by)s) (outboxd_build_info{%(selector)s})
              )
              or on ()
              absent(outboxd_build_info{%(selector)s})
            |||,
            'No relay of an outbox has been scraped for 5 minutes: none of the other alerts can fire.',
            'There are no metrics of %(outbox)s.',
            '5m',
          ),
          alert(
            // Compared with the smallest count of the hour, so that one letter is told even if others were removed. The count
            // has a limit; beyond it rejections tell.
            'DeadLettersGrow',
            'warning',
            |||
              (outboxd:dead_letters:max - min_over_time(outboxd:dead_letters:max[1h]) > 0)
              or
              (
                (outboxd:dead_letters:max >= %(deadLettersCounted)s)
                and on (%(by)s)
                (sum by (%(by)s) (increase(outboxd_rejected_total{%(selector)s}[1h])) > 0)
              )
            |||,
            'Messages were given up within the last hour: they are dead letters and will not be published.',
            'The dead letters of %(outbox)s have become more within the last hour ({{ $value }}).',
          ),
          alert(
            'LanesHeld',
            'warning',
            |||
              outboxd:held_lanes:max{cause!~"missing_topic|not_authorised|paused"} > 0
            |||,
            'Lanes have been held for 5 minutes: their messages wait, others flow.',
            '{{ $value }} lanes of %(outbox)s are held, cause: {{ $labels.cause }}.',
            '5m',
          ),
          alert(
            'TopicMissing',
            'warning',
            |||
              outboxd:held_lanes:max{cause="missing_topic"} > 0
            |||,
            'Messages have waited for 5 minutes for a topic that does not exist.',
            '{{ $value }} topics to which rows of %(outbox)s are addressed do not exist, or the relay may not see them.',
            '5m',
          ),
          alert(
            'TopicNotAuthorised',
            'warning',
            |||
              outboxd:held_lanes:max{cause="not_authorised"} > 0
            |||,
            'Messages have waited for 5 minutes for a topic to which the relay may not write.',
            'Kafka does not let the relay of %(outbox)s write to {{ $value }} of its topics.',
            '5m',
          ),
          alert(
            // Only the leader talks to Kafka all the time; what a standby says may be old.
            'KafkaDown',
            'warning',
            |||
              max by (%(by)s) (outboxd_kafka_up{%(selector)s} and (outboxd_leader{%(selector)s} == 1)) == 0
            |||,
            'Kafka has not answered the leader for 3 minutes.',
            'Kafka does not answer the leader of %(outbox)s. Messages wait, and none is lost.',
            '3m',
          ),
          alert(
            'OldSnapshot',
            'warning',
            |||
              max by (%(by)s) (outboxd_oldest_snapshot_seconds{%(selector)s}) > %(oldSnapshotSeconds)s
            |||,
            'An old transaction has held back vacuum in the database of an outbox for 5 minutes beyond the limit.',
            'A transaction in the database of %(outbox)s has been open for {{ $value | humanizeDuration }}.',
            '5m',
          ),
          alert(
            'ProducerReplacedRepeatedly',
            'warning',
            |||
              sum by (%(by)s) (increase(outboxd_producer_rebuilds_total{%(selector)s}[10m])) > %(restarts)s
            |||,
            'The Kafka client has been built anew again and again for 15 minutes.',
            'The relay of %(outbox)s built its Kafka client anew {{ $value | humanize }} times within 10 minutes.',
            '15m',
          ),
          alert(
            'VacuumBehind',
            'warning',
            |||
              max by (%(by)s) (outboxd_check{%(selector)s, check="vacuum", status=~"warning|failed"}) == 1
            |||,
            'Vacuum has not kept up with the table of an outbox for 30 minutes.',
            'Dead rows pile up in the table of %(outbox)s.',
            '30m',
          ),
          alert(
            'RetentionBehind',
            'warning',
            |||
              max by (%(by)s) (outboxd_check{%(selector)s, check="retention", status=~"warning|failed"}) == 1
            |||,
            'Published rows have been kept beyond their retention for 30 minutes.',
            'Published rows of %(outbox)s are not removed after their retention.',
            '30m',
          ),
          alert(
            'CertificateEndsSoon',
            'warning',
            |||
              min by (%(by)s, setting) (outboxd_certificate_not_after_timestamp_seconds{%(selector)s}) - time() < %(certificateSeconds)s
            |||,
            'A certificate that the relay uses ends soon.',
            'The certificate of {{ $labels.setting }} of %(outbox)s has {{ $value | humanizeDuration }} left.',
            '10m',
          ),
          alert(
            // A process that ends soon after it began counts one session each time, which no counter shows: its terms do.
            'SessionsRestartRepeatedly',
            'warning',
            |||
              (sum by (%(by)s) (increase(outboxd_sessions_total{%(selector)s}[10m])) > %(restarts)s)
              or
              (outboxd:term:max - min_over_time(outboxd:term:max[10m]) > %(restarts)s)
            |||,
            'The relay has failed and begun anew again and again for 15 minutes.',
            'The relay of %(outbox)s began to read anew {{ $value | humanize }} times within 10 minutes.',
            '15m',
          ),
          alert(
            'LateMessages',
            'warning',
            |||
              sum by (%(by)s) (increase(outboxd_late_messages_total{%(selector)s}[1h])) > 0
            |||,
            'Rows were changed by hand within the last hour so that they became due behind the reader.',
            'About {{ $value | humanize }} rows of %(outbox)s became due behind the reader within the last hour, and are published now.',
          ),
          alert(
            // Off unless canary.every is set. Rows that wait for a pause are not lost.
            'CanaryLost',
            'warning',
            |||
              sum by (%(by)s) (increase(outboxd_canary_lost_total{%(selector)s}[10m])) > 0
            |||,
            'Rows of the canary did not come back in time within the last 10 minutes: what is committed does not reach consumers, or late.',
            'About {{ $value | humanize }} rows of the canary of %(outbox)s did not come back in time within the last 10 minutes.',
          ),
          alert(
            // A pause is meant; that it goes on may be forgotten. Relays that are not the leader tell it, too.
            'Paused',
            'info',
            |||
              max by (%(by)s, scope) (outboxd_paused{%(selector)s}) > 0
            |||,
            'Operators have paused publishing for 30 minutes: everything, or some topics.',
            'Publishing of %(outbox)s is paused, scope: {{ $labels.scope }}. `outboxd status` says since when and by whom; `outboxd resume` ends it.',
            '30m',
          ),
          alert(
            'ReservedHeaders',
            'info',
            |||
              sum by (%(by)s) (increase(outboxd_reserved_headers_dropped_total{%(selector)s}[1h])) > 0
            |||,
            'Rows have headers that are called like those of the relay: they are left out.',
            'About {{ $value | humanize }} headers of rows of %(outbox)s were left out within the last hour.',
          ),
        ],
      },
    ],
  },
}
