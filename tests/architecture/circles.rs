//! No circle of imports between the files of a room: what two files need of each other belongs into a third, or they are
//! one. An import from a façade counts as one of the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{paths, room_of, sources, without_comments};

/// The files of a room by the names of their modules, such as `["kafka", "sink"]`, with their code.
type Modules<'a> = BTreeMap<Vec<&'a str>, String>;

/// Who imports whom.
type Imports<'a> = BTreeMap<&'a [&'a str], BTreeSet<&'a [&'a str]>>;

#[test]
fn files_of_a_room_do_not_import_each_other_in_a_circle() {
    let sources = sources();
    let rooms: BTreeSet<&str> = sources.iter().map(|(path, _)| room_of(path)).collect();
    let circles: Vec<String> =
        rooms.into_iter().flat_map(|room| circles(sources.iter().filter(|(path, _)| room_of(path) == room))).collect();
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_reported_also_through_a_facade() {
    let files = |texts: [(&str, &str); 4]| texts.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let round = files([
        ("src/shop/mod.rs", "mod till;\nmod goods;\npub use till::{Coin, Till};\nuse crate::shop::goods::Apple;\n"),
        ("src/shop/till.rs", "use crate::shop::goods::{Apple, pear::Pear};\n"),
        ("src/shop/goods/mod.rs", "mod pear;\npub struct Apple(crate::shop::Till);\n"),
        ("src/shop/goods/pear.rs", "pub struct Pear;\n#[cfg(test)]\nmod tests { use crate::shop::Till; }\n"),
    ]);
    assert_eq!(circles(round.iter()), ["shop::goods → shop::till → shop::goods"]);
    let straight = files([
        ("src/shop/mod.rs", "mod till;\nmod goods;\npub use till::{Coin, Till};\nuse crate::shop::goods::Apple;\n"),
        ("src/shop/till.rs", "use crate::shop::goods::{Apple, pear::Pear};\n"),
        ("src/shop/goods/mod.rs", "mod pear;\n#[cfg(test)]\nmod tests;\npub struct Apple(pear::Pear);\n"),
        ("src/shop/goods/tests.rs", "use crate::shop::Till;\n"),
    ]);
    assert_eq!(circles(straight.iter()), Vec::<String>::new());
}

/// The circles among these files, each as the modules of a shortest way around.
fn circles<'a>(files: impl Iterator<Item = &'a (String, String)> + Clone) -> Vec<String> {
    let modules: Modules = files.map(|(path, text)| (module(path), code(text))).collect();
    let modules: Modules =
        modules.iter().filter(|(name, _)| !is_test(name, &modules)).map(|(n, c)| (n.clone(), c.clone())).collect();
    let imports: Imports = modules.iter().map(|(name, code)| (&**name, imported(name, code, &modules))).collect();
    let mut told: BTreeSet<&[&str]> = BTreeSet::new();
    let mut circles = Vec::new();
    for start in imports.keys().copied() {
        if let Some(way) = way_back(start, &imports).filter(|way| !way.iter().any(|module| told.contains(module))) {
            circles.push(way.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(" → "));
            told.extend(way);
        }
    }
    circles
}

/// A shortest way from a module back to it.
fn way_back<'a>(start: &'a [&'a str], imports: &Imports<'a>) -> Option<Vec<&'a [&'a str]>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in &imports[way.last().expect("it has a start")] {
                let longer_way = [&way[..], &[next]].concat();
                if *next == start {
                    return Some(longer_way);
                }
                if seen.insert(*next) {
                    longer.push(longer_way);
                }
            }
        }
        ways = longer;
    }
    None
}

/// The other modules of its room that a module imports. What a façade hands on is no import of its own.
fn imported<'a>(name: &[&str], code: &str, modules: &'a Modules<'a>) -> BTreeSet<&'a [&'a str]> {
    let room = name[0];
    let own: String = code.lines().filter(|line| !is_handed_on(line)).map(|line| format!("{line}\n")).collect();
    let found = paths(&own, "crate").into_iter().filter(|path| path[0] == room);
    let supers = paths(&own, "super").into_iter().map(|path| {
        let parents = name[..name.len() - 1].iter().map(|part| (*part).to_owned());
        parents.chain(path).collect()
    });
    let children = modules.keys().filter(|child| child.len() == name.len() + 1 && child.starts_with(name));
    let of_children = children.flat_map(|child| {
        let inside = paths(&own, child[name.len()]).into_iter();
        inside.map(|path| child.iter().map(|part| (*part).to_owned()).chain(path).collect())
    });
    let found = found.chain(supers).chain(of_children).filter_map(|path: Vec<String>| definer(&path, modules));
    found.filter(|found| **found != *name).collect()
}

/// The module that defines what a path names.
fn definer<'a>(path: &[String], modules: &'a Modules<'a>) -> Option<&'a [&'a str]> {
    let is_prefix = |name: &[&str]| name.len() <= path.len() && name.iter().zip(path).all(|(a, b)| *a == b);
    let (name, code) = modules.iter().filter(|(name, _)| is_prefix(name)).max_by_key(|(name, _)| name.len())?;
    let Some(item) = path.get(name.len()) else { return Some(name) };
    let handed_on = code.lines().filter(|line| is_handed_on(line)).collect::<Vec<_>>().join("\n");
    let children = modules.keys().filter(|child| child.len() == name.len() + 1 && child.starts_with(name));
    let from = children.flat_map(|child| {
        let names = paths(&handed_on, child[name.len()]).into_iter();
        names.map(move |rest| (child, rest))
    });
    let mut from = from.filter(|(_, rest)| rest.last() == Some(item));
    match from.next() {
        Some((child, rest)) => {
            let inside: Vec<String> = child.iter().map(|part| (*part).to_owned()).chain(rest).collect();
            definer(&inside, modules)
        }
        None => Some(name),
    }
}

/// Whether a line is one of those by which a façade hands an item on, or names a module of its own.
fn is_handed_on(line: &str) -> bool {
    line.starts_with("pub use ") || line.starts_with("pub(crate) use ") || line.starts_with("pub(super) use ")
}

/// Whether a module is there in tests only, as the file says that declares it.
fn is_test(name: &[&str], modules: &Modules) -> bool {
    let (last, parent) = name.split_last().expect("a module has a name");
    let declared = |code: &String| {
        ["", "pub ", "pub(crate) ", "pub(super) "]
            .iter()
            .any(|how| code.contains(&format!("#[cfg(test)]\n{how}mod {last};")))
    };
    !parent.is_empty() && (modules.get(parent).is_some_and(declared) || is_test(parent, modules))
}

/// The module that a file is.
fn module(path: &str) -> Vec<&str> {
    let inside = path.strip_prefix("src/").expect("a path under src").trim_end_matches(".rs");
    inside.split('/').filter(|part| *part != "mod").collect()
}

/// The code of a file without what is there in tests only, each statement that hands items on in a line of its own.
fn code(text: &str) -> String {
    let code = without_comments(text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut joined = String::new();
    let mut is_open = false;
    for line in code.lines() {
        is_open |= is_handed_on(line);
        joined.push_str(line);
        is_open &= !line.ends_with(';');
        if !is_open {
            joined.push('\n');
        }
    }
    joined
}
