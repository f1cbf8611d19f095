use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;

const ID: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

fn workspace() -> Uuid {
    ID.parse().unwrap()
}

/// Answers every name with these, one answer after the other; the last one stays.
pub(in crate::outbound) struct Scripted {
    answers: Vec<Vec<&'static str>>,
    pub(in crate::outbound) asked: AtomicUsize,
}

impl Scripted {
    pub(in crate::outbound) fn new(answers: &[&[&'static str]]) -> Arc<Self> {
        Arc::new(Self {
            answers: answers.iter().map(|answer| answer.to_vec()).collect(),
            asked: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Resolve for Scripted {
    async fn lookup(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = &self.answers[turn.min(self.answers.len() - 1)];
        let addresses = answer.iter().map(|ip| {
            let ip: IpAddr = ip.parse().map_err(io::Error::other)?;
            Ok(SocketAddr::new(ip, port))
        });
        addresses.collect()
    }
}

/// Never answers.
struct Silent;

#[async_trait]
impl Resolve for Silent {
    async fn lookup(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        std::future::pending().await
    }
}

pub(in crate::outbound) fn guard(resolver: Arc<dyn Resolve>) -> Guard {
    Guard {
        resolver,
        lookup_timeout: LOOKUP_TIMEOUT,
        development: false,
        control_plane: false,
    }
}

fn production() -> Guard {
    guard(Scripted::new(&[&["1.1.1.1"]]))
}

fn development() -> Guard {
    Guard {
        development: true,
        ..production()
    }
}

fn control_plane() -> Guard {
    Guard {
        control_plane: true,
        ..production()
    }
}

#[tokio::test]
async fn own_containers_localhost_and_public_addresses_may_be_registered() {
    for url in [
        "http://localhost:8000",
        "http://LOCALHOST:8000",
        "http://ws-7aa08951-00d:8000",
        "http://ws-7aa08951-00d1-4c3e-9d6a-0123456789ab:8000",
        "https://1.1.1.1/agent",
        "http://[2606:4700::1111]:8000",
        "http://agent.example/a?b#c",
    ] {
        let verdict = production().check_registration(url, workspace()).await;
        assert_eq!(verdict, Ok(()), "{url}");
    }
}

#[tokio::test]
async fn everything_inside_is_refused_at_registration_in_development_too() {
    for url in [
        "http://127.0.0.1:8000",
        "http://127.1:8000",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://0.0.0.0",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1",
        "http://172.17.0.2:8000",
        "http://192.168.1.1",
        "http://100.64.0.1",
        "http://224.0.0.1",
        "http://[::1]",
        "http://[::]",
        "http://[::ffff:10.0.0.1]",
        "http://[fd00::1]",
        "http://[fe80::1]",
        "http://[64:ff9b::a00:1]",
        "http://[2002:a00:1::]",
    ] {
        for guard in [production(), development()] {
            let verdict = guard.check_registration(url, workspace()).await;
            assert_eq!(verdict, Err(Refusal::Blocked), "{url}");
        }
    }
    for url in [
        "",
        "ftp://x",
        "http://",
        "http://user:pw@example.org",
        "http://user@example.org",
        "javascript:1",
        "data:text/plain,x",
        "http://a b",
        "http://a\u{0}b",
        "http://a\nb",
        "//example.org",
        "http://[::1",
        "http://example.org:99999",
    ] {
        let verdict = production().check_registration(url, workspace()).await;
        assert_eq!(verdict, Err(Refusal::Malformed), "{url:?}");
    }
}

#[tokio::test]
async fn names_that_only_look_local_are_looked_up() {
    for url in [
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "http://localhost./",
        "http://ws-11111111-111:8000",
        "http://ws-7aa08951-00d.evil.example/",
    ] {
        let inside = Scripted::new(&[&["127.0.0.1"]]);
        let verdict = guard(inside.clone())
            .check_registration(url, workspace())
            .await;
        assert_eq!(verdict, Err(Refusal::Blocked), "{url}");
        assert_eq!(
            inside.asked.load(Ordering::Relaxed),
            1,
            "{url}: one look-up"
        );
    }
}

#[tokio::test]
async fn one_bad_address_of_a_name_is_enough() {
    let mixed = guard(Scripted::new(&[&[
        "1.1.1.1",
        "10.0.0.1",
        "2606:4700::1111",
    ]]));
    let url = "http://agent.example";
    let verdict = mixed.check_registration(url, workspace()).await;
    assert_eq!(verdict, Err(Refusal::Blocked));
    assert!(matches!(
        mixed.vet(url, Policy::Claimed).await,
        Err(Refusal::Blocked)
    ));
    let nothing = guard(Scripted::new(&[&[]]));
    let verdict = nothing.check_registration(url, workspace()).await;
    assert_eq!(verdict, Err(Refusal::Unresolvable));
}

#[tokio::test]
async fn a_name_that_nobody_answers_is_given_up() {
    assert_eq!(LOOKUP_TIMEOUT, Duration::from_secs(2));
    let impatient = Guard {
        lookup_timeout: Duration::from_millis(20),
        ..guard(Arc::new(Silent))
    };
    let verdict = impatient.vet("http://agent.example", Policy::Claimed).await;
    assert!(matches!(verdict, Err(Refusal::Unresolvable)));
    // An address needs nobody.
    assert!(
        impatient
            .vet("http://1.1.1.1", Policy::Claimed)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn each_policy_allows_what_the_contract_says() {
    // URL; claimed in production, development, under a control plane; registered
    // under a control plane; inspected.
    let table = [
        ("http://1.1.1.1", [true, true, true, true, true]),
        ("http://127.0.0.1:8000", [false, true, false, false, true]),
        ("http://[::1]:8000", [false, true, false, false, true]),
        ("http://10.0.0.1", [false, true, true, true, true]),
        ("http://172.16.0.1", [false, true, true, true, true]),
        ("http://192.168.0.1", [false, true, true, true, true]),
        ("http://[fd12::1]", [false, true, true, true, true]),
        ("http://[fc00::1]", [false; 5]),
        ("http://169.254.169.254", [false; 5]),
        ("http://100.64.0.1", [false; 5]),
        ("http://192.0.2.1", [false; 5]),
        ("http://0.0.0.0", [false; 5]),
        ("http://[::]", [false; 5]),
        ("http://[fe80::1]", [false; 5]),
        ("http://[ff02::1]", [false; 5]),
        ("http://[fd00:ec2::254]", [false; 5]),
        ("http://[64:ff9b::1]", [false; 5]),
    ];
    for (url, expected) in table {
        let found = [
            production().vet(url, Policy::Claimed).await.is_ok(),
            development().vet(url, Policy::Claimed).await.is_ok(),
            control_plane().vet(url, Policy::Claimed).await.is_ok(),
            control_plane()
                .check_registration(url, workspace())
                .await
                .is_ok(),
            production().vet(url, Policy::Inspected).await.is_ok(),
        ];
        assert_eq!(found, expected, "{url}");
        let glances = [
            production().glance(url, Policy::Claimed).is_ok(),
            development().glance(url, Policy::Claimed).is_ok(),
            control_plane().glance(url, Policy::Claimed).is_ok(),
        ];
        assert_eq!(
            glances,
            expected[..3],
            "{url}: a glance at an address is enough"
        );
    }
}

#[tokio::test]
async fn a_glance_knows_localhost_and_asks_nobody() {
    let resolver = Scripted::new(&[&["127.0.0.1"]]);
    let guard = guard(resolver.clone());
    let local = guard.glance("http://localhost:8000", Policy::Claimed);
    assert_eq!(local.map(drop), Err(Refusal::Blocked));
    assert!(
        guard
            .glance("http://agent.example", Policy::Claimed)
            .is_ok()
    );
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 0);
}

/// An address as people who want to get past a filter write it.
fn spellings(ip: Ipv4Addr) -> Vec<String> {
    let number = u32::from(ip);
    let [a, b, c, d] = ip.octets();
    let mapped = ip.to_ipv6_mapped();
    let segments = |high: [u16; 6]| {
        let [e, f] = [(number >> 16) as u16, number as u16];
        let [p, q, r, s, t, u] = high;
        format!("[{}]", Ipv6Addr::new(p, q, r, s, t, u, e, f))
    };
    let wide = |text: String| -> String {
        let widen = |c: char| match c {
            '0'..='9' => char::from_u32(c as u32 - '0' as u32 + 0xff10).unwrap(),
            '.' => '\u{3002}',
            c => c,
        };
        text.chars().map(widen).collect()
    };
    vec![
        ip.to_string(),
        format!("{ip}."),
        number.to_string(),
        format!("{number:#x}"),
        format!("{number:#X}"),
        format!("0{number:o}"),
        format!("{a}.{}", number & 0xff_ffff),
        format!("{a}.{b}.{}", number & 0xffff),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x{a:X}.{b}.0{c:o}.{d:#x}"),
        format!("000{a:o}.{b}.{c}.{d}"),
        wide(ip.to_string()),
        ip.to_string().replace('.', "%2e"),
        ip.to_string()
            .chars()
            .map(|c| format!("%{:02x}", c as u32))
            .collect(),
        format!("[{mapped}]"),
        format!("[::ffff:{:x}:{:x}]", number >> 16, number & 0xffff),
        segments([0, 0, 0, 0, 0, 0xffff]),
        segments([0, 0, 0, 0, 0xffff, 0]),
        segments([0; 6]),
        segments([0x64, 0xff9b, 0, 0, 0, 0]),
        segments([0x64, 0xff9b, 1, 0, 0, 0]),
        format!("[2002:{:x}:{:x}::1]", number >> 16, number & 0xffff),
    ]
}

fn inside() -> impl Strategy<Value = Ipv4Addr> {
    let networks: Vec<[u8; 4]> = vec![
        [127, 0, 0, 8],
        [10, 0, 0, 8],
        [0, 0, 0, 8],
        [172, 16, 0, 12],
        [192, 168, 0, 16],
        [169, 254, 0, 16],
        [100, 64, 0, 10],
        [192, 0, 2, 24],
        [224, 0, 0, 4],
    ];
    (prop::sample::select(networks), any::<u32>()).prop_map(|([a, b, c, bits], host)| {
        let network = u32::from_be_bytes([a, b, c, 0]);
        Ipv4Addr::from(network | (host & (u32::MAX >> bits)))
    })
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "\\PC{0,100}") {
        let _ = parse(&text);
        let _ = production().glance(&text, Policy::Claimed);
    }

    #[test]
    fn no_spelling_of_a_blocked_address_passes(ip in inside(), scheme in "(http|HTTP|https|hTTps)", tail in "(|/|:80|:8000/x|/[?]y|[?]y|#z)") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for host in spellings(ip) {
            let url = format!("{scheme}://{host}{tail}");
            // A name would resolve to a public address and pass.
            let guard = production();
            prop_assert!(guard.glance(&url, Policy::Claimed).is_err(), "{}", url);
            let registered = runtime.block_on(guard.check_registration(&url, workspace()));
            prop_assert!(registered.is_err(), "{}", url);
        }
    }
}
