// Everything that may be set from outside; see README.md.
{
  _config+:: {
    // Which series are outboxd's. It stands inside the braces of every selector.
    selector: 'job="outboxd"',

    // What tells one outbox from another. All relays of one outbox, the leader and its standbys, must agree in these labels,
    // and relays of different outboxes must not. Labels that no series has do no harm. A relay itself says outbox: its
    // outbox.source, or else its database and table as the configuration names them.
    groupLabels: ['namespace', 'job', 'outbox'],
    // Those of them that a target has whatever it says: all that is known of a relay that cannot be scraped.
    targetLabels: ['namespace', 'job'],
    // What tells one relay from another inside a group.
    instanceLabel: 'instance',

    // The lag objective: for this share of the time no message waits longer than so many seconds.
    lagObjectiveSeconds: 30,
    lagObjectiveRatio: 0.995,
    // How fast the error budget of 30 days may be spent: the share of a window that is bad, as a multiple of the share that
    // the objective allows. Both windows must exceed it: the long one so that it matters, the short one so that the alert
    // ends soon after its cause.
    burnsFast: [
      { long: '1h', short: '5m', factor: 14.4 },
      { long: '6h', short: '30m', factor: 6 },
    ],
    burnsSlowly: [
      { long: '1d', short: '2h', factor: 3 },
      { long: '3d', short: '6h', factor: 1 },
    ],

    // How long ago an outbox may have been seen last for its absence to be missed.
    absentWindow: '6h',
    // A snapshot that is older holds back vacuum for too long. Raise it where backups take longer.
    oldSnapshotSeconds: 3600,
    // So many days before its end a certificate is to be replaced.
    certificateDays: 30,
    // So many sessions, takeovers or new producers within 10 minutes are too many, if that goes on.
    restartsIn10m: 3,
    // How many dead letters a relay counts at most.
    deadLettersCounted: 100000,

    // Upper bounds of the histograms' buckets; the catalogue of metrics has them.
    secondsBuckets: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600],

    // Where docs/runbook is served, with %s for the name of the alert.
    runbookURLPattern: 'https://outboxd.example/runbook/%s.md',

    dashboardTitle: 'outboxd',
    dashboardUid: 'outboxd',
    dashboardTags: ['outboxd'],
    dashboardRefresh: '30s',
  },
}
