//! What is answered: JSON, errors too.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::contract::StoreError;
use crate::observe::chain;

/// What comes of a request.
pub(super) type Answer = Result<Json<Value>, Refusal>;

/// Why a request is not answered.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It has no token, and needs one.
    NoToken,
    /// Its token is another one.
    WrongToken,
    /// Changes are not served at all.
    ReadOnly,
    /// It cannot be understood.
    Misused(String),
    /// What it names is not there.
    Nothing(String),
    /// The database does not do it.
    Failed(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<QueryRejection> for Refusal {
    fn from(problem: QueryRejection) -> Self {
        Self::Misused(problem.body_text())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(problem: JsonRejection) -> Self {
        Self::Misused(problem.body_text())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match &self {
            Self::NoToken => {
                (StatusCode::UNAUTHORIZED, "send the token in the header Authorization: Bearer TOKEN".to_owned())
            }
            Self::WrongToken => (StatusCode::UNAUTHORIZED, "the token is not the one that this needs".to_owned()),
            Self::ReadOnly => (
                StatusCode::FORBIDDEN,
                "nothing can be changed over HTTP: set http.admin_token_file, or use the commands".to_owned(),
            ),
            Self::Misused(problem) => (StatusCode::BAD_REQUEST, problem.clone()),
            Self::Nothing(problem) => (StatusCode::NOT_FOUND, problem.clone()),
            Self::Failed(error) if error.is_transient() => (StatusCode::SERVICE_UNAVAILABLE, chain(error)),
            Self::Failed(error) => (StatusCode::INTERNAL_SERVER_ERROR, chain(error)),
        };
        let mut response = (status, Json(json!({ "error": error }))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A path that is not there.
pub(super) async fn not_found(uri: Uri) -> Response {
    let problem = format!("there is no {}; openapi.json describes what is", uri.path());
    (StatusCode::NOT_FOUND, Json(json!({ "error": problem }))).into_response()
}

/// A path that is there, for another method.
pub(super) async fn not_allowed(method: Method, uri: Uri) -> Response {
    let problem = format!("{} does not take {method}; openapi.json describes what it takes", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, Json(json!({ "error": problem }))).into_response()
}
