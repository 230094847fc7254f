// Groups of rules as YAML to be read by people: in the order in which Prometheus' documents have it. std.manifestYamlDoc
// sorts by name, and takes half a minute for as much.
{
  local order = ['record', 'alert', 'expr', 'for', 'labels', 'annotations'],

  local text(value, indent) =
    local inner = indent + '  ';
    if std.endsWith(value, '\n')
    then '|\n' + inner + std.strReplace(std.substr(value, 0, std.length(value) - 1), '\n', '\n' + inner)
    else "'" + std.strReplace(value, "'", "''") + "'",

  local fields(object, names, indent) = std.join('\n' + indent, [
    if std.isString(object[name])
    then name + ': ' + text(object[name], indent)
    else name + ':\n' + indent + '  ' + fields(object[name], std.objectFields(object[name]), indent + '  ')
    for name in names
    if std.objectHas(object, name)
  ]),

  groups(all):: std.join('\n', ['groups:'] + [
    '  - ' + fields(group, ['name', 'interval'], '    ') + '\n    rules:\n' + std.join('\n', [
      assert std.setDiff(std.objectFields(rule), std.set(order)) == [] : 'a field that this does not know';
      '      - ' + fields(rule, order, '        ')
      for rule in group.rules
    ])
    for group in all.groups
  ]),
}
