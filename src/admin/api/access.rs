//! Who may do what.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde_json::Value;
use subtle::ConstantTimeEq;

use crate::admin::api::answer::Refusal;
use crate::admin::api::state::{Api, Tokens};
use crate::outbox::Intent;
use crate::secret::Secret;

/// What stands for a key that the caller may not see.
const HIDDEN_KEY: &str = "…";

/// A caller that may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// It knows a token, and may see keys.
    Known,
    /// It knows the payload token, and may see keys and payloads.
    Trusted,
    /// It sent none, and needs none; keys are the application's data and not shown to it.
    Anyone,
}

impl Reader {
    /// Hides the key of something described from those who may not see it.
    pub(super) fn hide_key(self, described: &mut Value) {
        if self == Self::Anyone && !described["key"].is_null() {
            described["key"] = HIDDEN_KEY.into();
        }
    }

    /// Refuses to show payloads to those who may not see them.
    ///
    /// # Errors
    /// With what it takes.
    pub(super) fn must_see_payloads(self, api: &Api) -> Result<(), Refusal> {
        match self {
            _ if api.tokens.payload.is_none() => Err(Refusal::NoPayloads),
            Self::Trusted => Ok(()),
            Self::Known => Err(Refusal::WrongToken),
            Self::Anyone => Err(Refusal::NoToken),
        }
    }
}

/// A caller that may change things.
#[derive(Debug)]
pub(super) struct Admin;

impl Admin {
    /// What the audit log is told of a change that came over HTTP.
    pub(super) fn intent(command: &'static str, subject: impl ToString, reason: Option<String>) -> Intent {
        Intent { command, subject: subject.to_string(), reason, actor: "admin over HTTP".to_owned() }
    }
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let Tokens { read, admin, payload } = &api.tokens;
        match bearer(parts) {
            None if read.is_none() => Ok(Self::Anyone),
            None => Err(Refusal::NoToken),
            Some(given) if payload.as_ref().is_some_and(|token| is(given, token)) => Ok(Self::Trusted),
            Some(given) if [read, admin].into_iter().flatten().any(|token| is(given, token)) => Ok(Self::Known),
            Some(_) => Err(Refusal::WrongToken),
        }
    }
}

impl FromRequestParts<Api> for Admin {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let Some(admin) = &api.tokens.admin else { return Err(Refusal::ReadOnly) };
        let given = bearer(parts).ok_or(Refusal::NoToken)?;
        if is(given, admin) { Ok(Self) } else { Err(Refusal::WrongToken) }
    }
}

/// The token of the request, as RFC 6750 sends it.
fn bearer(parts: &Parts) -> Option<&str> {
    let (scheme, token) = parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that tells nothing of where they differ.
fn is(given: &str, token: &Secret) -> bool {
    given.as_bytes().ct_eq(token.expose().as_bytes()).into()
}
