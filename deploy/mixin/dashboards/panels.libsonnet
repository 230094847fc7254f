// As much of Grafana's model as the dashboard needs. Panels are laid out from left to right, row after row.
{
  local datasource = { type: 'prometheus', uid: '${datasource}' },

  // A query.
  target(expr, legend='', instant=false, format='time_series'):: {
    datasource: datasource,
    expr: std.stripChars(expr, '\n'),
    legendFormat: legend,
    instant: instant,
    range: !instant,
    format: format,
  },

  local panel(type, title, targets, unit, description) = {
    type: type,
    title: title,
    description: description,
    datasource: datasource,
    targets: [targets[i] { refId: std.char(65 + i) } for i in std.range(0, std.length(targets) - 1)],
    fieldConfig: {
      defaults: { unit: unit, min: 0, color: { mode: 'palette-classic' }, thresholds: $.thresholds([]) },
      overrides: [],
    },
    options: {},
  },

  // Steps of colour: [value, colour] from which on it holds; green below.
  thresholds(steps):: {
    mode: 'absolute',
    steps: [{ value: null, color: 'green' }] + [{ value: step[0], color: step[1] } for step in steps],
  },

  graph(title, targets, unit='short', description='', stack=false, thresholds=[]):: panel('timeseries', title, targets, unit, description) {
    fieldConfig+: {
      defaults+: {
        custom: {
          drawStyle: 'line',
          lineWidth: 1,
          fillOpacity: if stack then 40 else 10,
          showPoints: 'never',
          spanNulls: false,
          stacking: { mode: if stack then 'normal' else 'none', group: 'A' },
          thresholdsStyle: { mode: if std.length(thresholds) > 0 then 'line' else 'off' },
        },
        thresholds: $.thresholds(thresholds),
      },
    },
    options: {
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  },

  tile(title, targets, unit='short', description='', steps=[], textMode='auto', mappings=[], noValue=null):: panel('stat', title, targets, unit, description) {
    fieldConfig+: {
      defaults+: {
        color: { mode: 'thresholds' },
        thresholds: $.thresholds(steps),
        mappings: mappings,
        [if noValue != null then 'noValue']: noValue,
      },
    },
    options: {
      colorMode: 'background',
      graphMode: 'none',
      justifyMode: 'center',
      orientation: 'auto',
      textMode: textMode,
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
    },
  },

  // What a number means: [number, text, colour].
  mapping(meanings):: [{
    type: 'value',
    options: {
      ['' + meaning[0]]: { index: meaning[0], text: meaning[1], color: meaning[2] }
      for meaning in meanings
    },
  }],

  // One line of the table for each value of the label that all targets share. A column: [name, unit].
  table(title, targets, label, columns, description=''):: panel('table', title, targets, 'short', description) {
    transformations: [
      { id: 'merge', options: {} },
      {
        id: 'organize',
        options: {
          excludeByName: { Time: true },
          indexByName: { [label]: 0 } + { ['Value #' + std.char(65 + i)]: i + 1 for i in std.range(0, std.length(columns) - 1) },
          renameByName: { [label]: label } + { ['Value #' + std.char(65 + i)]: columns[i][0] for i in std.range(0, std.length(columns) - 1) },
        },
      },
    ],
    fieldConfig+: {
      defaults+: { custom: { align: 'auto', filterable: true } },
      overrides: [
        { matcher: { id: 'byName', options: column[0] }, properties: [{ id: 'unit', value: column[1] }, { id: 'noValue', value: '0' }] }
        for column in columns
      ],
    },
    options: { showHeader: true, cellHeight: 'sm', sortBy: [{ displayName: columns[0][0], desc: true }] },
  },

  alerts(title, prefix, matchers):: {
    type: 'alertlist',
    title: title,
    description: 'Alerts that fire or are about to.',
    datasource: datasource,
    options: {
      alertName: prefix,
      alertInstanceLabelFilter: '{%s}' % matchers,
      dashboardAlerts: false,
      groupMode: 'default',
      groupBy: [],
      maxItems: 20,
      sortOrder: 3,
      viewMode: 'list',
      stateFilter: { firing: true, pending: true, 'error': true, noData: false, normal: false },
    },
  },

  row(title, panels):: { title: title, panels: panels },

  // A panel and how wide and high it is: the screen has 24 columns.
  sized(panel, width, height=8):: panel { gridPos: { w: width, h: height } },

  // Sizes of panels to places: [x, y], and below them all the next free y. Accumulators are arrays, because jsonnet computes
  // the fields of an object anew each time that they are read.
  local places(sizes, top) = std.foldl(
    function(placed, size)
      local xs = placed[0], x = placed[1], y = placed[2], height = placed[3];
      local wraps = x + size.w > 24;
      local at = if wraps then [0, y + height] else [x, y];
      [xs + [at], at[0] + size.w, at[1], if wraps then size.h else std.max(height, size.h)],
    sizes,
    [[], 0, top, 0]
  ),

  // Rows one below the other, with numbers for the panels.
  layout(rows)::
    std.foldl(
      function(placed, row)
        local all = placed[0], top = placed[1];
        local laid = places([panel.gridPos for panel in row.panels], top + 1);
        local header = {
          id: std.length(all) + 1,
          type: 'row',
          title: row.title,
          collapsed: false,
          panels: [],
          gridPos: { x: 0, y: top, w: 24, h: 1 },
        };
        local panels = [
          row.panels[i] {
            id: std.length(all) + 2 + i,
            gridPos: { x: laid[0][i][0], y: laid[0][i][1], w: row.panels[i].gridPos.w, h: row.panels[i].gridPos.h },
          }
          for i in std.range(0, std.length(row.panels) - 1)
        ];
        [all + [header] + panels, laid[2] + laid[3]],
      rows,
      [[], 0]
    )[0],

  dashboard(title, uid, tags, refresh, variables, rows):: {
    title: title,
    uid: uid,
    tags: tags,
    refresh: refresh,
    schemaVersion: 39,
    version: 1,
    editable: true,
    graphTooltip: 1,
    timezone: 'browser',
    time: { from: 'now-1h', to: 'now' },
    timepicker: {},
    annotations: { list: [] },
    links: [],
    templating: { list: variables },
    panels: $.layout(rows),
  },

  datasourceVariable: {
    name: 'datasource',
    label: 'Data source',
    type: 'datasource',
    query: 'prometheus',
    current: {},
    hide: 0,
    refresh: 1,
  },

  // A choice among the values that a label has in the series of `selector`.
  labelVariable(label, selector):: {
    name: label,
    label: label,
    type: 'query',
    datasource: datasource,
    query: { query: 'label_values(%s, %s)' % [selector, label], refId: label },
    definition: 'label_values(%s, %s)' % [selector, label],
    includeAll: true,
    allValue: '.*',
    multi: true,
    current: { selected: true, text: ['All'], value: ['$__all'] },
    refresh: 2,
    sort: 1,
    hide: 0,
  },
}
