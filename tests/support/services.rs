//! Where the real services are: the environment file that `testbed/up` writes says so.
//!
//! A service that is missing fails the test that needs it; no test skips itself.

/// A database server, by a URL that may create databases.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    url: String,
}

/// The newest PostgreSQL of the testbed.
pub(crate) fn postgres() -> Server {
    Server::at(variable("OUTBOXD_TEST_POSTGRES"))
}

/// The oldest supported PostgreSQL.
pub(crate) fn postgres_13() -> Server {
    Server::at(variable("OUTBOXD_TEST_POSTGRES_13"))
}

/// The MySQL of the testbed.
pub(crate) fn mysql() -> Server {
    Server::at(variable("OUTBOXD_TEST_MYSQL"))
}

/// The MariaDB of the testbed.
pub(crate) fn mariadb() -> Server {
    Server::at(variable("OUTBOXD_TEST_MARIADB"))
}

/// The bootstrap address of the testbed's Apache Kafka.
pub(crate) fn kafka() -> String {
    variable("OUTBOXD_TEST_KAFKA")
}

/// A variable that the testbed sets.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `make test`, or source the env file that testbed/up writes");
    })
}

impl Server {
    /// A server by its URL.
    pub(crate) fn at(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    /// The URL of the database that the server was given with.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The URL of another database of it: what stands between the authority and the parameters is replaced.
    pub(crate) fn database(&self, name: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").expect("the URL of a server has a scheme");
        let (base, parameters) = rest.split_once('?').map_or((rest, None), |(base, after)| (base, Some(after)));
        let authority = base.split('/').next().unwrap_or(base);
        let tail = parameters.map_or(String::new(), |parameters| format!("?{parameters}"));
        format!("{scheme}://{authority}/{name}{tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn another_database_keeps_authority_and_parameters() {
        let server = Server::at("postgres://me:pw@h:1/postgres?sslmode=disable");
        assert_eq!(server.database("x"), "postgres://me:pw@h:1/x?sslmode=disable");
        assert_eq!(Server::at("postgres://h").database("x"), "postgres://h/x");
    }
}
