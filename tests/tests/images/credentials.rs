//! Registries that want a password, and those that must not see one.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use molecule_core::backend::{ImageRequest, Progress};
use molecule_core::config::backend::{DockerConfig, RegistryCredentials};
use tokio::task::JoinSet;

use crate::support::registry::PASSWORD;
use crate::world::{World, digest, images, never, obtain};

const USER: &str = "molecule";
const WRONG: &str = "not-the-password-0123";

fn account(password: &str) -> RegistryCredentials {
    RegistryCredentials {
        username: USER.to_owned(),
        password: password.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_password_serves_who_has_it() {
    let Some(world) = World::with_password(USER).await else {
        return;
    };
    let pushed = world.registry.push("agent", "1", "one").await;
    let (reference, host) = (
        world.registry.reference("agent", "1"),
        world.registry.host(),
    );
    let with = |password: &str| {
        world.backend_with(&reference, |config| {
            config.registries.insert(host.clone(), account(password));
        })
    };
    let nobody = world.backend(&reference);
    for backend in [&nobody, &with(WRONG)] {
        let error = obtain(backend).await.expect_err("no access");
        let text = format!("{error} {error:?}");
        assert!(text.contains("not found after pull attempt"), "{text}");
        assert!(!text.contains(WRONG), "{text}");
        let error = images(backend)
            .latest("langgraph")
            .await
            .expect_err("no access");
        assert!(!format!("{error} {error:?}").contains(WRONG));
    }

    let backend = with(PASSWORD);
    let latest = images(&backend)
        .latest("langgraph")
        .await
        .expect("an answer");
    assert_eq!(Some(latest), digest(&pushed));
    let obtained = obtain(&backend).await.expect("an image");
    assert_eq!(obtained.digest, digest(&pushed));
    let refreshed = images(&backend).refresh("langgraph", &never()).await;
    assert_eq!(refreshed.expect("a pull").digest, digest(&pushed));
}

/// Something that asks everybody for a password and writes down what it gets.
struct Curious {
    host: String,
    seen: Arc<Mutex<Vec<Option<String>>>>,
    _serving: JoinSet<()>,
}

impl Curious {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let router = Router::new().fallback(move |request: Request| {
            let given = request.headers().get(header::AUTHORIZATION);
            let given = given.map(|value| value.to_str().unwrap_or("?").to_owned());
            notes.lock().unwrap().push(given);
            let ask = [
                (header::WWW_AUTHENTICATE.as_str(), "Basic realm=\"test\""),
                ("docker-distribution-api-version", "registry/2.0"),
            ];
            std::future::ready((StatusCode::UNAUTHORIZED, ask))
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self {
            host,
            seen,
            _serving: serving,
        }
    }

    fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_their_own_host_only() {
    let Some(world) = World::with_password(USER).await else {
        return;
    };
    world.registry.push("agent", "1", "one").await;
    let curious = Curious::start().await;
    let configure = |config: &mut DockerConfig| {
        let own = world.registry.host();
        config.registries.insert(own, account(PASSWORD));
        config.ghcr_user = Some(USER.to_owned());
        config.ghcr_token = Some("ghcr-token-0123456789".into());
        let image = format!("{}/agent:1", curious.host);
        config.images.insert("hermes".to_owned(), image);
    };
    let backend = world.backend_with(&world.registry.reference("agent", "1"), configure);
    obtain(&backend).await.expect("an image");

    let hermes = ImageRequest {
        runtime: "hermes".to_owned(),
        pin: None,
    };
    let none = Progress::none();
    let images = images(&backend);
    let error = images.obtain(&hermes, &none, &never()).await;
    error.expect_err("no such image");
    images
        .refresh("hermes", &never())
        .await
        .expect_err("no such image");
    images.latest("hermes").await.expect_err("no such image");

    let seen = curious.seen();
    assert!(!seen.is_empty(), "nobody asked");
    assert!(seen.iter().all(Option::is_none), "{seen:?}");

    // And it would have noticed
    let told = world.backend_with("unused:1", |config| {
        configure(config);
        config
            .registries
            .insert(curious.host.clone(), account(WRONG));
    });
    let error = crate::world::images(&told).latest("hermes").await;
    error.expect_err("no such image");
    assert!(curious.seen().iter().any(Option::is_some));
}
