//! PostgreSQL with TLS and client certificates.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use testbed::{Authority, ConsumerOptions, Issued, Kafka, KafkaOptions, Postgres, PostgresOptions, process};

use crate::Outcome::{Named, Ready};
use crate::play;

const TOPIC: &str = "secured";

/// Who may come in, and how; the first line that fits counts.
const ACCESS: &str = "hostssl all certified 127.0.0.1/32 cert
hostnossl all encrypted 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_right_works_and_what_is_wrong_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // The server's user must get through.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let authority = Authority::new("test authority")?;
    std::fs::write(folder.path().join("ca.crt"), authority.certificate())?;
    std::fs::write(folder.path().join("other.crt"), Authority::new("another")?.certificate())?;
    let (certificate, key) = authority.client("certified")?.write(folder.path(), "client")?;
    let good = server(&folder, "good", &authority.server(&["localhost"])?).await?;
    let expired = server(&folder, "expired", &authority.expired_server(&["localhost"])?).await?;
    let (kafka, good, expired) = tokio::try_join!(
        Box::pin(Kafka::start(KafkaOptions::default())),
        Box::pin(Postgres::start(good)),
        Box::pin(Postgres::start(expired))
    )?;
    kafka.create_topic(TOPIC, 1).await?;
    for user in ["certified", "encrypted"] {
        let statement = format!("CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{user}'");
        sqlx::query(AssertSqlSafe(statement)).execute(&good.pool().await?).await?;
    }
    let by_name = |server: &Postgres| server.url().replace("127.0.0.1", "localhost");
    let (url, expired_url) = (by_name(&good), by_name(&expired));
    let as_user = |user: &str| url.replace("analytics:analytics@", &format!("{user}:{user}@"));
    let consumer = |name: &str, url: String, ca: &str| {
        let options = ConsumerOptions::new(&kafka, TOPIC, &url).with("KAFKA_GROUP_ID", name);
        if ca.is_empty() {
            options
        } else {
            options.with("DATABASE_CA_FILE", folder.path().join(ca).display())
        }
    };
    let certified = format!(
        "{}?sslmode=verify-full&sslcert={}&sslkey={}",
        as_user("certified"),
        certificate.display(),
        key.display()
    );
    play(vec![
        ("require", consumer("require", format!("{}?sslmode=require", as_user("encrypted")), ""), Ready),
        ("verify-ca", consumer("verify-ca", format!("{url}?sslmode=verify-ca"), "ca.crt"), Ready),
        ("verify-full", consumer("verify-full", format!("{url}?sslmode=verify-full"), "ca.crt"), Ready),
        ("certified", consumer("certified", certified, "ca.crt"), Ready),
        // The same by settings, as the operator does it: the files are no part of the secret URL.
        (
            "certified-by-files",
            consumer("certified-by-files", format!("{}?sslmode=verify-full", as_user("certified")), "ca.crt")
                .with("DATABASE_CERTIFICATE_FILE", certificate.display())
                .with("DATABASE_KEY_FILE", key.display()),
            Ready,
        ),
        (
            "wrong-password",
            consumer("wrong-password", url.replace("analytics:analytics@", "analytics:wrong@"), ""),
            Named(&["password authentication failed for user \"analytics\""]),
        ),
        (
            "wrong-authority",
            consumer("wrong-authority", format!("{url}?sslmode=verify-full"), "other.crt"),
            Named(&["signed by an authority that is not trusted here", "DATABASE_CA_FILE"]),
        ),
        (
            "wrong-host",
            consumer("wrong-host", format!("{}?sslmode=verify-full", good.url()), "ca.crt"),
            Named(&["not valid for name \"127.0.0.1\"", "the server's certificate is for other host names"]),
        ),
        (
            "expired",
            consumer("expired", format!("{expired_url}?sslmode=verify-full"), "ca.crt"),
            Named(&["the server's certificate has expired: renew it"]),
        ),
        (
            "unencrypted",
            consumer("unencrypted", format!("{}?sslmode=disable", as_user("encrypted")), ""),
            Named(&["pg_hba.conf rejects connection", "no encryption"]),
        ),
        (
            "no-client-certificate",
            consumer(
                "no-client-certificate",
                format!("{}?sslmode=verify-full", as_user("certified")),
                "ca.crt",
            ),
            Named(&["requires a valid client certificate"]),
        ),
    ])
    .await
}

/// A server with this certificate; the key belongs to the server's user, as the server insists.
async fn server(folder: &TempDir, name: &str, certificate: &Issued) -> Result<PostgresOptions> {
    let (certificate, key) = certificate.write(folder.path(), name)?;
    let own = folder.path().join(format!("{name}.server.key"));
    let mut install = Command::new("install");
    install.args(["-o", "postgres", "-m", "600"]).arg(&key).arg(&own);
    process::output(install).await?;
    let access = folder.path().join("pg_hba.conf");
    std::fs::write(&access, ACCESS)?;
    let text = |path: &Path| path.display().to_string();
    let settings = [
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", text(&certificate)),
        ("ssl_key_file", text(&own)),
        ("ssl_ca_file", text(&folder.path().join("ca.crt"))),
        ("hba_file", text(&access)),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value)).to_vec();
    Ok(PostgresOptions { settings, ..PostgresOptions::default() })
}
