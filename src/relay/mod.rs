//! fetch, publish, settle.
