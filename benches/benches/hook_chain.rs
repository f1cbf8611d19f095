//! What a chain of hooks costs: none, five and fifty, over an environment of a
//! hundred variables.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use futures_util::FutureExt;
use molecule_benches::options::Length;
use molecule_benches::stats::median;
use molecule_hooks::{EnvMap, Registry, WorkspaceContext};
use molecule_tests::hooks::FnHook;

const KEYS: usize = 100;
const CHAINS: [usize; 3] = [0, 5, 50];

/// What hooks do: look at one variable, overwrite another as a secret.
fn chain(hooks: usize) -> Registry {
    let registry = Registry::new();
    (0..hooks).fold(registry, |registry, number| {
        let (read, written) = (key(number), key(KEYS - 1 - number));
        registry.with(FnHook::new("bench", move |_, env| {
            let value = env.get(&read).unwrap_or_default().to_owned();
            Ok(env.set_secret(&written, value)?)
        }))
    })
}

fn environment() -> EnvMap {
    let mut env = EnvMap::new();
    for number in 0..KEYS {
        env.set(&key(number), format!("value-of-a-usual-length-{number:03}"))
            .expect("a valid variable");
    }
    env
}

fn key(number: usize) -> String {
    format!("VARIABLE_{number:03}")
}

/// Nanoseconds of one run of the chain: the median of the samples.
fn measure(criterion: &mut Criterion, hooks: usize) -> f64 {
    let (registry, env, workspace) = (chain(hooks), environment(), WorkspaceContext::new("bench"));
    let samples = RefCell::new(Vec::new());
    criterion.bench_function(
        &format!("hook_chain/{hooks}_hooks_{KEYS}_keys"),
        |bencher| {
            bencher.iter_custom(|runs| {
                let mut took = Duration::ZERO;
                for _ in 0..runs {
                    let mut env = env.clone();
                    let started = Instant::now();
                    // These hooks never wait, so one poll is the whole run.
                    let ran = registry.run(&workspace, black_box(&mut env)).now_or_never();
                    took += started.elapsed();
                    ran.expect("no hook waits").expect("no hook fails");
                    black_box(env);
                }
                samples
                    .borrow_mut()
                    .push(took.as_nanos() as f64 / runs as f64);
                took
            });
        },
    );
    median(&samples.borrow())
}

fn main() {
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    if Length::wanted() != Length::Full {
        criterion = criterion
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(500));
    }
    let [none, five, fifty] = CHAINS.map(|hooks| measure(&mut criterion, hooks));
    criterion.final_summary();
    println!("hook chain, {KEYS} variables (medians)");
    println!("   0 hooks  {none:>10.0} ns");
    println!(
        "   5 hooks  {five:>10.0} ns   {:>8.0} ns per hook",
        (five - none) / 5.0
    );
    println!(
        "  50 hooks  {fifty:>10.0} ns   {:>8.0} ns per hook",
        (fifty - none) / 50.0
    );
    println!("  50 hooks / 5 hooks: {:.1}x", fifty / five);
}
