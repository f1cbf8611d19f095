//! Settings of the shell that cannot be meant.

use molecule_core::Config;
use molecule_core::config::Environment;

fn problems(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = Config {
        environment: Environment::Development,
        ..Config::default()
    };
    change(&mut config);
    config
        .validate()
        .err()
        .map(|error| error.problems)
        .unwrap_or_default()
}

#[test]
fn origins_are_scheme_host_and_port() {
    for origin in [
        "",
        " ",
        "localhost:3000",
        "https://",
        "https:///",
        "http://a/",
        "https://a.example/path",
        "https://a.example?x",
        "https://a.example#x",
        "https://user:hunter2@a.example",
        "https://*.example.org",
        "https://a.example,https://b.example",
        "https://a b",
        "https://a\\b",
        "https://a:port",
        "ftp://a.example",
        "null",
        "**",
    ] {
        let found = problems(|config| {
            config.server.cors_origins = vec!["http://fine".to_owned(), origin.to_owned()];
        });
        let [problem] = &found[..] else {
            panic!("{origin:?}: {found:?}")
        };
        let start = "server.cors_origins (CORS_ORIGINS): entry 2 is no origin";
        assert!(problem.starts_with(start), "{origin:?}: {problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    for origin in [
        "*",
        "http://localhost:3000",
        " https://A.example:8443 ",
        "http://[::1]:3000",
    ] {
        let found = problems(|config| config.server.cors_origins = vec![origin.to_owned()]);
        assert!(found.is_empty(), "{origin}: {found:?}");
    }
    assert!(problems(|config| config.server.cors_origins = Vec::new()).is_empty());
}

#[test]
fn proxies_are_networks() {
    for network in [
        "",
        "proxy",
        "10.0.0.0/33",
        "10.0.0.0/8/8",
        "::/129",
        "10.0.0.0-10.0.0.9",
        "*",
    ] {
        let found = problems(|config| config.server.trusted_proxies = vec![network.to_owned()]);
        let [problem] = &found[..] else {
            panic!("{network:?}: {found:?}")
        };
        let start = "server.trusted_proxies (TRUSTED_PROXIES): entry 1 is no network";
        assert!(problem.starts_with(start), "{network:?}: {problem}");
    }
    for network in [
        "10.0.0.0/8",
        " 192.0.2.1 ",
        "2001:db8::/32",
        "::1",
        "0.0.0.0/0",
    ] {
        let found = problems(|config| config.server.trusted_proxies = vec![network.to_owned()]);
        assert!(found.is_empty(), "{network}: {found:?}");
    }
}

#[test]
fn a_limit_of_nothing_and_urls_with_more_than_a_place_are_refused() {
    let found = problems(|config| config.server.rate_limit = 0);
    assert_eq!(
        found,
        ["server.rate_limit (RATE_LIMIT): must be at least 1"]
    );
    for url in [
        "http://user@a",
        "http://u:hunter2@a",
        "http://a?x=hunter2",
        "http://a#hunter2",
    ] {
        let found = problems(|config| {
            config.server.canvas_proxy_url = Some(url.to_owned());
            config.control_plane.upstream_url = Some(url.to_owned());
        });
        let expected = [
            "server.canvas_proxy_url: must have no user, password, query or fragment",
            "control_plane.upstream_url: must have no user, password, query or fragment",
        ];
        assert_eq!(found, expected, "{url}");
    }
}
