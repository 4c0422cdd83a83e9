//! Connecting to PostgreSQL.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};
use std::time::Duration;

use super::sockets;
use crate::retry::answered;
use crate::settings;

/// How long reaching the server may take before the attempt counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Session settings of every connection.
///
/// A process that is stopped in the middle of a transaction (SIGSTOP, a frozen node) keeps its row locks; the server
/// ends its transaction after these times, so that the next owner of the partition need not wait for ever.
const SESSION: &str =
    "SET idle_in_transaction_session_timeout = '5s'; SET timezone = 'UTC'; SET client_min_messages = warning";

/// How long a statement may take, and wait for a lock.
pub(super) const LIMITS: &str = "SET statement_timeout = '60s'; SET lock_timeout = '5s'";

/// Those who take partitions over look early at who is in their way.
const CLAIMING: &str = "SET lock_timeout = '1s'";

/// Opens connections to the configured database.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
}

impl Database {
    /// Reads the URL; nothing is connected yet.
    ///
    /// # Errors
    /// The URL cannot be understood.
    pub fn new(settings: &settings::Database, instance: &str) -> Result<Self, sqlx::Error> {
        let mut options = PgConnectOptions::from_str(&settings.url)?;
        if options.get_application_name().is_none() {
            // PostgreSQL cuts the name at 63 bytes.
            options = options.application_name(&format!("analytics-consumer {instance}"));
        }
        if let Some(file) = &settings.ca_file {
            options = options.ssl_root_cert(file);
        }
        if let Some((certificate, key)) = &settings.client_certificate {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        Ok(Self { options })
    }

    /// Opens one connection.
    ///
    /// # Errors
    /// Whatever keeps the server from being reached, within ten seconds.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            sockets::set_on_connections_to(self.options.get_port());
            connection.execute(SESSION).await?;
            connection.execute(LIMITS).await?;
            Ok(connection)
        };
        answered(CONNECT_TIMEOUT, connecting).await
    }

    /// Opens a connection for taking partitions over.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn claiming(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect().await?;
        connection.execute(CLAIMING).await?;
        Ok(connection)
    }

    /// Where the database is, for messages: host, port and name, never the password.
    #[must_use]
    pub fn place(&self) -> String {
        let name = self.options.get_database().unwrap_or("(default database)");
        format!("{}:{}/{name}", self.options.get_host(), self.options.get_port())
    }
}
