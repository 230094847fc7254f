// The dashboards' queries as rules, so that promtool can read them: what Grafana fills in is filled in here.
local mixin = import 'mixin.libsonnet';
local filled(expr) = std.strReplace(expr, '$__rate_interval', '5m');
local queries = [
  filled(target.expr)
  for name in std.objectFields(mixin.grafanaDashboards)
  for panel in mixin.grafanaDashboards[name].panels
  if std.objectHas(panel, 'targets')
  for target in panel.targets
];

{
  groups: [{
    name: 'queries',
    rules: [{ record: 'query%d' % i, expr: queries[i] } for i in std.range(0, std.length(queries) - 1)],
  }],
}
