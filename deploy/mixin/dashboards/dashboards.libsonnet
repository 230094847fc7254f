local terms = import '../terms.libsonnet';
local g = import 'panels.libsonnet';

{
  local config = $._config,

  // What the reader chose above: an outbox, and relays of it.
  local chosen(labels) = std.join(', ', ['%s=~"$%s"' % [label, label] for label in labels]),
  local outbox = chosen(config.groupLabels),
  local all = std.join(', ', [config.selector, outbox]),
  local relays = std.join(', ', [all, chosen([config.instanceLabel])]),
  local label = std.join('/', ['{{%s}}' % label for label in config.groupLabels]),
  local t = terms.of(config) {
    // Series that were recorded bear the labels of the outbox alone.
    outbox: outbox,
    // All relays of the outboxes: who leads is no question to some of them.
    all: all,
    relays: relays,
    instance: config.instanceLabel,
    label: label,
  },

  local target(expr, legend='', instant=false, format='time_series') = g.target(expr % t, legend % t, instant, format),
  // Median and 99th percentile of a histogram.
  local quantiles(histogram) = [
    target('histogram_quantile(%s, sum by (le) (rate(%s_bucket{%%(relays)s}[$__rate_interval])))' % [quantile[0], histogram], quantile[1])
    for quantile in [['0.5', 'p50'], ['0.9', 'p90'], ['0.99', 'p99']]
  ],
  local rate(counter) = 'sum by (%%(by)s) (rate(%s{%%(relays)s}[$__rate_interval]))' % counter,

  // ok 0, moving 1, stalled 2, stopped 3, paused 4: of the leader, and where none leads of the others.
  local stateNumber = |||
    max by (%(by)s) (
      (
        (0 * (outboxd_lag_state{%(all)s, state="ok"} == 1))
        or (1 * (outboxd_lag_state{%(all)s, state="moving"} == 1))
        or (2 * (outboxd_lag_state{%(all)s, state="stalled"} == 1))
        or (3 * (outboxd_lag_state{%(all)s, state="stopped"} == 1))
        or (4 * (outboxd_lag_state{%(all)s, state="paused"} == 1))
      )
      and ignoring (state) (outboxd_leader{%(all)s} == 1)
    )
    or
    (3 + 0 * sum by (%(by)s) (outboxd_leader{%(all)s}))
  |||,

  local overview = g.row('How it stands', [
    g.sized(g.tile(
      'State',
      [target(stateNumber, '%(label)s')],
      description='What the leader says of the last minute.',
      mappings=g.mapping([
        [0, 'Everything is published', 'green'],
        [1, 'Messages wait, and it moves', 'blue'],
        [2, 'Messages wait, and nothing moves', 'red'],
        [3, 'Nobody leads', 'red'],
        [4, 'Paused by an operator', 'orange'],
      ]),
      noValue='No metrics',
    ), 8, 5),
    g.sized(g.tile(
      'Lag',
      [target('max(min by (%(by)s) (outboxd_oldest_unsent_seconds{%(relays)s}))')],
      's',
      'How long the oldest message waits, held ones included.',
      [[config.lagObjectiveSeconds, 'orange'], [10 * config.lagObjectiveSeconds, 'red']],
    ), 4, 5),
    g.sized(g.tile(
      'Waiting messages',
      [
        target('sum(max by (%(by)s) (outboxd_unsent_messages{%(relays)s} and (outboxd_unsent_messages_is_floor{%(relays)s} == 0)))', 'counted'),
        target('sum(max by (%(by)s) (outboxd_unsent_messages{%(relays)s} and (outboxd_unsent_messages_is_floor{%(relays)s} == 1)))', 'at least'),
      ],
      description='Counted up to a limit; beyond it "at least".',
      textMode='value_and_name',
    ), 4, 5),
    g.sized(g.tile(
      'Leaders',
      [target('sum by (%(by)s) (outboxd_leader{%(all)s})', '%(label)s')],
      description='One for each outbox.',
      mappings=g.mapping([[0, '0', 'red'], [1, '1', 'green']]),
      steps=[[2, 'red']],
    ), 2, 5),
    g.sized(g.tile(
      'Relays',
      [target('count by (%(by)s) (outboxd_build_info{%(all)s})', '%(label)s')],
      description='Scraped now. One alone has no standby.',
      mappings=g.mapping([[1, '1', 'orange']]),
    ), 2, 5),
    g.sized(g.tile(
      'Held lanes',
      [target('sum(max by (%(by)s, cause) (outboxd_held_lanes{%(relays)s}))')],
      description='Topics and lanes that wait for something.',
      steps=[[1, 'orange']],
    ), 2, 5),
    g.sized(g.tile(
      'Dead letters',
      [target('sum(max by (%(by)s) (outboxd_dead_letters{%(relays)s}))')],
      description='Messages that were given up and are kept in outbox_dead.',
      steps=[[1, 'orange']],
    ), 2, 5),
    g.sized(g.alerts('Alerts', 'Outboxd', outbox), 24, 6),
  ]),

  local signals = g.row('Lag, rate, errors, saturation', [
    g.sized(g.graph(
      'Lag: age of the oldest waiting message',
      [target('min by (%(by)s) (outboxd_oldest_unsent_seconds{%(relays)s})', '%(label)s')],
      's',
      "By the database's clock. The line is the objective.",
      thresholds=[[config.lagObjectiveSeconds, 'orange']],
    ), 12),
    g.sized(g.graph(
      'Lag: share of the time above the objective',
      [
        target('outboxd:lag_above_objective:share%s{%%(outbox)s}' % window, '%(label)s, ' + window)
        for window in terms.windows(config)
      ] + [target('sum_over_time(outboxd:lag_above_objective:bool{%(outbox)s}[30d]) / 43200', '%(label)s, 30d')],
      'percentunit',
      'From the recording rules. The line is the share that the objective allows over 30 days.',
      thresholds=[[1 - config.lagObjectiveRatio, 'orange']],
    ), 12),
    g.sized(g.graph(
      'Rate: messages published',
      [target(rate('outboxd_published_total'), '%(label)s')],
      'mps',
      'Acknowledged by Kafka.',
    ), 8),
    g.sized(g.graph(
      'From created_at to the acknowledgement',
      quantiles('outboxd_commit_to_ack_seconds'),
      's',
      "By the relay's clock. Messages of held lanes count when they are published at last.",
    ), 8),
    g.sized(g.graph(
      'Published within the objective',
      [target(
        |||
          sum by (%(by)s) (rate(outboxd_commit_to_ack_seconds_bucket{%(relays)s, le=~"%(objectiveBucket)s"}[$__rate_interval]))
          /
          sum by (%(by)s) (rate(outboxd_commit_to_ack_seconds_count{%(relays)s}[$__rate_interval]))
        |||,
        '%(label)s',
      )],
      'percentunit',
      'Of the messages that were acknowledged, the share that waited no longer than the objective allows.',
    ), 8),
    g.sized(g.graph(
      'Errors',
      [
        target('sum by (cause) (rate(outboxd_rejected_total{%(relays)s}[$__rate_interval]))', 'rejected: {{cause}}'),
        target(rate('outboxd_late_messages_total'), 'late'),
        target(rate('outboxd_reserved_headers_dropped_total'), 'reserved headers'),
      ],
      'cps',
      'Messages that can never be published, by cause; rows that became due behind the reader; headers that were left out.',
    ), 8),
    g.sized(g.graph(
      'Restarts within 10 minutes',
      [
        target('sum by (%(by)s) (increase(outboxd_sessions_total{%(relays)s}[10m]))', 'sessions, %(label)s'),
        target('sum by (%(by)s) (increase(outboxd_producer_rebuilds_total{%(relays)s}[10m]))', 'Kafka clients, %(label)s'),
      ],
      'short',
      'Reading sessions begun and Kafka clients built anew. One session with each leadership is as it should be.',
    ), 8),
    g.sized(g.graph(
      'Saturation: messages waiting and in flight',
      [
        target('max by (%(by)s) (outboxd_unsent_messages{%(relays)s})', 'waiting, %(label)s'),
        target('sum by (%(by)s) (outboxd_in_flight_messages{%(relays)s})', 'in flight, %(label)s'),
      ],
      'short',
      'In flight is bounded by relay.in_flight.records. Waiting is counted up to a limit.',
    ), 8),
  ]),

  // The parts add up to the whole: from created_at to the record of the delivery.
  local part(title, histogram, what) = g.sized(g.graph(title, quantiles(histogram), 's', what), 6),
  local way = g.row('The way of a message', [
    part('Until it is read', 'outboxd_commit_to_read_seconds', "From created_at to the read that found it, by the relay's clock. Of some messages of each batch."),
    part('In the relay', 'outboxd_read_to_send_seconds', "From the read of a batch until it is handed to Kafka's client."),
    part('In Kafka', 'outboxd_publish_ack_seconds', "From handing a batch to Kafka's client to its last acknowledgement."),
    part('Until it is recorded', 'outboxd_ack_to_settled_seconds', 'From the last acknowledgement of a batch until the database has it.'),
    g.sized(g.graph(
      'Canary: the whole road',
      quantiles('outboxd_canary_round_trip_seconds'),
      's',
      "From writing a row of outboxd's own until its consumer had read it, by one clock. Nothing where canary.every is not set.",
    ), 12),
    g.sized(g.graph(
      'Canary: rows',
      [
        target(rate('outboxd_canary_sent_total'), 'written, %(label)s'),
        target(rate('outboxd_canary_lost_total'), 'lost, %(label)s'),
      ],
      'rowsps',
      'Rows of leaders and standbys; lost are those that did not come back within canary.lost_after.',
    ), 12),
  ]),

  local stage(name, histogram, what, more) = g.row(name, [
    g.sized(g.graph('How long one takes', quantiles(histogram), 's', what), 8),
    g.sized(g.graph('How many a second', [target(rate(histogram + '_count'), '%(label)s')], 'ops', what), 8),
    g.sized(more, 8),
  ]),

  local read = stage(
    'Read',
    'outboxd_fetch_seconds',
    'One read of the outbox, empty ones included.',
    g.graph(
      'Since the last progress of the leader',
      [target('time() - max by (%(by)s) (outboxd_last_progress_timestamp_seconds{%(relays)s} and (outboxd_leader{%(relays)s} == 1))', '%(label)s')],
      's',
      'Since it settled something or found nothing to do.',
    ),
  ),
  local publish = stage(
    'Publish',
    'outboxd_publish_ack_seconds',
    "From handing a batch to Kafka's client to its last acknowledgement.",
    g.graph(
      'Published, the busiest topics',
      [target('topk(10, sum by (topic) (rate(outboxd_published_total{%(relays)s}[$__rate_interval])))', '{{topic}}')],
      'mps',
      stack=true,
    ),
  ),
  local settle = stage(
    'Settle',
    'outboxd_settle_seconds',
    'One settlement written to the database.',
    g.graph(
      'Old rows removed',
      [target(rate('outboxd_purged_total'), '%(label)s')],
      'rowsps',
      'Settled rows that the leader removed after outbox.retention.',
    ),
  ),

  local database = g.row('Database', [
    g.sized(g.graph(
      'Oldest snapshot',
      [target('max by (%(by)s) (outboxd_oldest_snapshot_seconds{%(relays)s})', '%(label)s')],
      's',
      'It holds back vacuum. PostgreSQL only.',
      thresholds=[[config.oldSnapshotSeconds, 'orange']],
    ), 6),
    g.sized(g.graph(
      'Sessions of the relays',
      [target('max by (%(by)s) (outboxd_database_sessions{%(relays)s})', '%(label)s')],
      'short',
      "By the database's own count: up to 7 a relay and outbox. PostgreSQL only.",
    ), 6),
    g.sized(g.graph(
      'Lease',
      [target('outboxd_lease_remaining_seconds{%(relays)s}', '{{%(instance)s}}')],
      's',
      'How long each relay may trust its lease; 0 for a standby.',
    ), 6),
    g.sized(g.graph(
      'Takeovers',
      [target('max by (%(by)s) (outboxd_term{%(relays)s})', '%(label)s')],
      'short',
      'The term grows with each leadership.',
    ), 6),
    g.sized(g.graph(
      'Size of the table',
      [target('max by (%(by)s) (outboxd_table_bytes{%(relays)s})', '%(label)s')],
      'bytes',
      'With indexes and large values; of the whole file in SQLite.',
    ), 8),
    g.sized(g.graph(
      'Dead rows',
      [target('max by (%(by)s) (outboxd_dead_rows{%(relays)s})', '%(label)s')],
      'short',
      'What vacuum has still to remove, as PostgreSQL estimates.',
    ), 8),
    g.sized(g.graph(
      'Since the last vacuum',
      [target('time() - max by (%(by)s) (outboxd_last_vacuum_timestamp_seconds{%(relays)s})', '%(label)s')],
      's',
      'Of the outbox, by hand or automatic. PostgreSQL only, once there was one.',
    ), 8),
  ]),

  local kafka = g.row('Kafka', [
    g.sized(g.graph(
      'Kafka answers',
      [target('outboxd_kafka_up{%(relays)s} and (outboxd_leader{%(relays)s} == 1)', '{{%(instance)s}}')],
      'bool_yes_no',
      'Of the leader: it asks twice a minute while nothing is published.',
    ), 8),
    g.sized(g.graph(
      'Held lanes and topics',
      [target('max by (%(by)s, cause) (outboxd_held_lanes{%(relays)s})', '{{cause}}, %(label)s')],
      'short',
      'What waits for a topic, a right, a partition or an operator.',
      stack=true,
    ), 8),
    g.sized(g.graph(
      'Dead letters',
      [target('max by (%(by)s) (outboxd_dead_letters{%(relays)s})', '%(label)s')],
      'short',
      'Kept in outbox_dead, counted up to a limit.',
    ), 8),
    g.sized(g.graph(
      "In Kafka's client: messages",
      [target('sum by (%(by)s) (outboxd_kafka_queue_messages{%(relays)s})', '%(label)s')],
      'short',
      'Handed over and not acknowledged.',
    ), 8),
    g.sized(g.graph(
      "In Kafka's client: bytes",
      [target('sum by (%(by)s) (outboxd_kafka_queue_bytes{%(relays)s})', '%(label)s')],
      'bytes',
      'Handed over and not acknowledged.',
    ), 8),
    g.sized(g.graph(
      'Brokers',
      [target('max by (%(by)s, state) (outboxd_kafka_brokers{%(relays)s})', '{{state}}, %(label)s')],
      'short',
      'By how it stands with the connection to them; one that closed an idle connection is down, too.',
      stack=true,
    ), 8),
    g.sized(g.graph(
      'Round trip',
      [target('max by (%(by)s, broker) (outboxd_kafka_round_trip_seconds{%(relays)s})', '{{broker}}, %(label)s')],
      's',
      'From a request to the answer, by broker: the 99th percentile of ten seconds.',
    ), 8),
    g.sized(g.graph(
      'Slowed down by a quota',
      [target('max by (%(by)s, broker) (outboxd_kafka_throttle_seconds{%(relays)s})', '{{broker}}, %(label)s')],
      's',
      'The longest within ten seconds, by broker.',
    ), 8),
    g.sized(g.graph(
      'Requests sent again or not answered',
      [
        target('sum by (%(by)s, broker) (rate(outboxd_kafka_retries_total{%(relays)s}[$__rate_interval]))', 'again, {{broker}}, %(label)s'),
        target('sum by (%(by)s, broker) (rate(outboxd_kafka_request_timeouts_total{%(relays)s}[$__rate_interval]))', 'no answer, {{broker}}, %(label)s'),
      ],
      'reqps',
      'By broker.',
    ), 8),
  ]),

  local topics = g.row('Topics with problems', [
    g.sized(g.table(
      'Topics that wait longer than the objective, or of which messages were rejected within an hour',
      [
        target('max by (topic) (outboxd_topic_oldest_unsent_seconds{%(relays)s}) > %(lagObjectiveSeconds)s', instant=true, format='table'),
        target(
          |||
            max by (topic) (outboxd_topic_unsent_messages{%(relays)s})
            and
            (max by (topic) (outboxd_topic_oldest_unsent_seconds{%(relays)s}) > %(lagObjectiveSeconds)s)
          |||,
          instant=true,
          format='table',
        ),
        target('sum by (topic) (increase(outboxd_rejected_total{%(relays)s}[1h])) > 0', instant=true, format='table'),
      ],
      'topic',
      [['oldest waits', 's'], ['messages wait', 'short'], ['rejected in 1 h', 'short']],
      'Of the 20 topics that wait longest; the rest is "other".',
    ), 24),
  ]),

  // Each variable narrows the next one.
  local variables = [g.datasourceVariable] + [
    local labels = config.groupLabels + [config.instanceLabel];
    local narrowed = std.join(', ', [config.selector] + if i == 0 then [] else [chosen(labels[:i])]);
    g.labelVariable(labels[i], 'outboxd_build_info{%s}' % narrowed)
    for i in std.range(0, std.length(config.groupLabels))
  ],

  grafanaDashboards+:: {
    'outboxd.json': g.dashboard(
      config.dashboardTitle,
      config.dashboardUid,
      config.dashboardTags,
      config.dashboardRefresh,
      variables,
      [overview, signals, way, read, publish, settle, database, kafka, topics],
    ),
  },
}
