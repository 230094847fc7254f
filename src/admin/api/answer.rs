//! What is answered: JSON, errors too.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::task::JoinError;

use crate::admin::skipping::NotSkipped;
use crate::contract::StoreError;
use crate::observe::chain;

/// Bytes of a request's body, at most.
const LARGEST_BODY: usize = 1 << 20;

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
    /// Payloads are not shown at all.
    NoPayloads,
    /// It cannot be understood.
    Misused(String),
    /// What it names is not there.
    Nothing(String),
    /// What it names is not in a state in which that can be done.
    Conflict(String),
    /// The relay is stopping, and the change was not made to its end.
    Stopping,
    /// The database does not do it.
    Failed(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<NotSkipped> for Refusal {
    fn from(reason: NotSkipped) -> Self {
        match reason {
            NotSkipped::Nothing(problem) => Self::Nothing(problem),
            NotSkipped::Store(error) => Self::Failed(error),
            reason @ (NotSkipped::Sent(_) | NotSkipped::Flowing { .. } | NotSkipped::InFlight { .. }) => {
                Self::Conflict(reason.to_string())
            }
        }
    }
}

impl From<PathRejection> for Refusal {
    fn from(problem: PathRejection) -> Self {
        Self::Misused(problem.body_text())
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
            Self::NoPayloads => (
                StatusCode::FORBIDDEN,
                "payloads are not shown over HTTP: set http.payload_token_file, or use `outboxd show --payload`"
                    .to_owned(),
            ),
            Self::Misused(problem) => (StatusCode::BAD_REQUEST, problem.clone()),
            Self::Nothing(problem) => (StatusCode::NOT_FOUND, problem.clone()),
            Self::Conflict(problem) => (StatusCode::CONFLICT, problem.clone()),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping".to_owned()),
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

/// Has changes done to their end, once they were asked for, even if the caller goes away before: one that takes several
/// transactions does not stop between two of them.
pub(super) async fn to_the_end(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return Refusal::Misused(format!("a body has {LARGEST_BODY} bytes at most")).into_response();
    };
    let request = Request::from_parts(parts, body.into());
    match tokio::spawn(next.run(request)).await.map_err(JoinError::try_into_panic) {
        Ok(response) => response,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Refusal::Stopping.into_response(),
    }
}
