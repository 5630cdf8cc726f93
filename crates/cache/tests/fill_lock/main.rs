//! Simulated replicas that need a response which none of them has: over a network that delays and loses
//! messages, with replicas that die or lose the log, invalidations, and responses that cannot be shared. The
//! response is fetched once, and at most once more for each fault; every waiting replica gets it as soon as
//! it is stored.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed test panics")]

mod parts;
mod scenario;
#[path = "../support/seeded_rng.rs"]
mod seeded_rng;
mod simulation;

use std::time::Duration;

use phase6_cache::fill_lock::FillLock;
use phase6_redis::{Redis, Script, cmd};

use scenario::{Scenario, Summary};
use seeded_rng::SeededRng;
use simulation::simulate;

fn run_scenarios(first_seed: u64, seeds: u64) -> Summary {
    (first_seed..first_seed + seeds)
        .fold(Summary::default(), |total, seed| total + simulate(&Scenario::from_seed(seed)))
}

/// `cargo xtask simulate` runs more of them. A panic names the seed of the scenario that breaks a rule.
#[test]
fn in_every_scenario_a_response_is_fetched_once_and_reaches_every_waiting_replica() {
    let setting =
        |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first_seed, seeds) = (setting("PHASE6_FIRST_SEED", 0), setting("PHASE6_SEEDS", 500));
    let total = run_scenarios(first_seed, seeds);
    println!("seeds {first_seed} to {}: {total:?}", first_seed + seeds - 1);
    // Scenarios without waits or faults would prove nothing.
    let exercised = [total.fetches, total.waits, total.faults];
    assert!(seeds < 500 || exercised.iter().all(|count| *count > seeds), "{total:?}");
}

#[test]
fn equal_seeds_give_equal_simulations() {
    for seed in 0..20 {
        let scenario = Scenario::from_seed(seed);
        assert_eq!(simulate(&scenario), simulate(&Scenario::from_seed(seed)));
    }
    assert_ne!(simulate(&Scenario::from_seed(1)), simulate(&Scenario::from_seed(2)));
}

#[derive(Clone, Copy, Debug)]
enum Call {
    TryAcquire,
    Renew,
    Release,
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn the_scripts_agree_with_the_model() {
    const TTL: Duration = Duration::from_mins(1);
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one");
    let prefix = format!("phase6:test:{:x}", rand::random::<u64>());
    let redis = Redis::new(&url.parse().unwrap(), &prefix).unwrap();
    let [lookup, renew, release] = [
        include_str!("../../src/remote/lookup.lua"),
        include_str!("../../src/remote/renew.lua"),
        include_str!("../../src/remote/release.lua"),
    ]
    .map(Script::new);
    let [response, log, lock, waiting] = ["response", "log", "fill", "waiting"].map(|key| redis.key(key));
    let mut log_length = cmd("XLEN");
    log_length.arg(&log);
    let (mut model, mut published, mut rng) = (FillLock::default(), 0, SeededRng(7));
    for step in 0..1_000 {
        let replica = rng.below(4);
        let call = match rng.below(4) {
            0 | 1 => Call::TryAcquire,
            2 => Call::Renew,
            _ => Call::Release,
        };
        let expected = match call {
            Call::TryAcquire => model.try_acquire(replica, TTL, step),
            Call::Renew => model.renew(replica, TTL, step),
            Call::Release => model.release(replica, step),
        };
        let actual = match call {
            Call::TryAcquire => {
                let mut script = lookup.prepare_invoke();
                script.key(&response).key(&log).key(&lock).key(&waiting);
                script.arg("0-0").arg(1).arg(1).arg(replica).arg(TTL.as_millis() as u64);
                let (_, _, _, acquired): (Option<Vec<u8>>, i64, Vec<String>, u8) =
                    redis.script(&script).await.unwrap();
                acquired == 1
            }
            Call::Renew => {
                let mut script = renew.prepare_invoke();
                script.key(&lock).arg(replica).arg(TTL.as_millis() as u64);
                redis.script::<u64>(&script).await.unwrap() == 1
            }
            Call::Release => {
                let mut script = release.prepare_invoke();
                script.key(&lock).key(&waiting).key(&log).arg(replica).arg(1_000).arg("filled");
                redis.script::<u64>(&script).await.unwrap();
                let before =
                    std::mem::replace(&mut published, redis.command::<u64>(&log_length).await.unwrap());
                published > before
            }
        };
        assert_eq!(actual, expected, "{model:?} after {call:?} by replica {replica}, step {step}");
    }
    assert!(published > 20, "{published}");
}
