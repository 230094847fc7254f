//! What a person sees while it is being measured.

/// Says what is going on. The report alone goes to the standard output.
pub(crate) fn say(what: &str) {
    eprintln!("{what} …");
}
