// What several parts of the mixin say alike.
{
  // A number of seconds as le has it, and as a pattern that also matches how Prometheus 3 writes it ("30.0").
  bucketPattern(seconds)::
    if seconds == std.floor(seconds) then '%d(\\\\.0)?' % seconds else std.strReplace('%g' % seconds, '.', '\\\\.'),

  // The bucket that is nearest to the objective from above; the last one where there is none.
  objectiveBucket(config)::
    local above = [bound for bound in config.secondsBuckets if bound >= config.lagObjectiveSeconds];
    if std.length(above) > 0 then above[0] else config.secondsBuckets[std.length(config.secondsBuckets) - 1],

  // How many minutes a window such as 30m, 6h or 3d has.
  minutes(window)::
    std.parseInt(std.substr(window, 0, std.length(window) - 1))
    * { m: 1, h: 60, d: 1440 }[window[std.length(window) - 1]],

  // All windows over which the budget is looked at, each once.
  windows(config)::
    std.foldl(
      function(all, window) if std.member(all, window) then all else all + [window],
      std.flattenArrays([[burn.short, burn.long] for burn in config.burnsFast + config.burnsSlowly]),
      []
    ),

  // What expressions are made with. Computed once, not at each use.
  of(config)::
    local by = std.join(', ', config.groupLabels);
    local target = std.join(', ', config.targetLabels);
    local objectiveBucket = $.bucketPattern($.objectiveBucket(config));
    local outbox = std.join('/', ['{{ $labels.%s }}' % label for label in config.groupLabels]);
    {
      selector: config.selector,
      by: by,
      target: target,
      lagObjectiveSeconds: '' + config.lagObjectiveSeconds,
      objectiveBucket: objectiveBucket,
      absentWindow: config.absentWindow,
      oldSnapshotSeconds: '' + config.oldSnapshotSeconds,
      certificateSeconds: '%d' % (config.certificateDays * 24 * 3600),
      restarts: '' + config.restartsIn10m,
      deadLettersCounted: '' + config.deadLettersCounted,
      // How an alert calls the outbox.
      outbox: outbox,
    },
}
