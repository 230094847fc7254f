//! The embedded tour.
