//! Which relay leads.
