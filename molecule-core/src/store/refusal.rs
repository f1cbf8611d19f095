//! Why a database lets nobody in, in words that say what to do.

use std::borrow::Cow;

/// One sentence for an operator. Never the URL, which may hold a password.
pub(super) fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refusal) => {
            let code = refusal.code().unwrap_or(Cow::Borrowed(""));
            // Its `Display` adds the line of PostgreSQL's own source.
            format!("{}{}", refusal.message(), advice(&code))
        }
        sqlx::Error::Io(error) => format!("{error}{NOBODY_THERE}"),
        sqlx::Error::PoolTimedOut => format!("no answer in time{NOBODY_THERE}"),
        sqlx::Error::Tls(error) => format!("{error}; see sslmode in database.url (DATABASE_URL)"),
        other => other.to_string(),
    }
}

const NOBODY_THERE: &str =
    "; does PostgreSQL run, and does database.url (DATABASE_URL) name its host and port?";

/// What to do about an error by its SQLSTATE, or the code of SQLite.
fn advice(code: &str) -> &'static str {
    match code {
        "3D000" => "; create the database, or correct its name in database.url (DATABASE_URL)",
        "28000" | "28P01" => {
            "; correct user and password in database.url (DATABASE_URL), or whom PostgreSQL lets \
             in (pg_hba.conf)"
        }
        "53300" => {
            "; lower database.max_connections of the servers, or raise max_connections of \
             PostgreSQL"
        }
        "57P03" => "; wait until PostgreSQL is ready, and start again",
        // SQLITE_READONLY, SQLITE_CANTOPEN
        "8" | "14" => {
            "; data_dir (MOLECULE_DATA_DIR) or database.url (DATABASE_URL) must lead to a file \
             that this user may write"
        }
        // SQLITE_NOTADB
        "26" => {
            "; data_dir (MOLECULE_DATA_DIR) or database.url (DATABASE_URL) leads to another file"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_answers_and_a_pool_that_waited_in_vain_name_the_variable() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for error in [sqlx::Error::Io(refused), sqlx::Error::PoolTimedOut] {
            let said = told(&error);
            assert!(said.contains("database.url (DATABASE_URL)"), "{said}");
            assert!(!said.contains("pool"), "{said}");
        }
    }

    #[test]
    fn every_known_code_has_its_own_advice_and_others_have_none() {
        for code in ["3D000", "28P01", "53300", "57P03", "14", "26"] {
            assert!(advice(code).starts_with("; "), "{code}");
        }
        assert_eq!(advice("42601"), "");
    }
}
