//! Replicas that want an answer which none of them has, in simulated worlds: a network that delays and loses,
//! replicas that die or lose touch, an answer that is forgotten, or cannot be shared. It is made once, and once
//! more at most for each thing that went wrong; and whoever waits has it when it is there.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics")]

mod numbers;
mod replicas_of_one_answer;

use numbers::Numbers;
use phase6_cache::duty::Duty;
use phase6_redis::{Redis, Script, cmd};
use replicas_of_one_answer::{Sum, World, simulate};

fn worlds(from: u64, seeds: u64) -> Sum {
    (from..from + seeds).fold(Sum::default(), |all, seed| all + simulate(&World::of(seed)))
}

/// `cargo xtask simulate` goes through more of them. One that breaks a rule is printed with its seed.
#[test]
fn in_every_world_an_answer_is_made_once_and_whoever_waits_has_it() {
    let setting = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (from, seeds) = (setting("PHASE6_FIRST_SEED", 0), setting("PHASE6_SEEDS", 500));
    let all = worlds(from, seeds);
    println!("seeds {from} to {}: {all:?}", from + seeds - 1);
    // Worlds in which nobody waits would show nothing.
    assert!(seeds < 500 || [all.made, all.waited, all.faults].iter().all(|n| *n > seeds), "{all:?}");
}

#[test]
fn a_seed_gives_the_same_world_again() {
    for seed in 0..20 {
        assert_eq!(simulate(&World::of(seed)), simulate(&World::of(seed)));
    }
    assert_ne!(simulate(&World::of(1)), simulate(&World::of(2)));
}

#[tokio::test]
async fn the_scripts_give_duties_as_the_model_does() {
    const LASTS_MS: u64 = 60_000;
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one");
    let prefix = format!("phase6:test:{:x}", rand::random::<u64>());
    let redis = Redis::new(&url.parse().unwrap(), &prefix).unwrap();
    let [read, prolong, landed] = [
        include_str!("../src/remote/read.lua"),
        include_str!("../src/remote/prolong.lua"),
        include_str!("../src/remote/landed.lua"),
    ]
    .map(Script::new);
    let [answer, log, duty, waiting] = ["answer", "log", "duty", "waiting"].map(|key| redis.key(key));
    let mut length = cmd("XLEN");
    length.arg(&log);
    let (mut model, mut told, mut numbers) = (Duty::default(), 0, Numbers(7));
    for step in 0..1_000 {
        let (who, what) = (numbers.below(4), numbers.below(4));
        let expected = match what {
            0 | 1 => model.ask(who, LASTS_MS, step),
            2 => model.prolong(who, LASTS_MS, step),
            _ => model.landed(who, step),
        };
        let did = match what {
            0 | 1 => {
                let mut call = read.prepare_invoke();
                call.key(&answer).key(&log).key(&duty).key(&waiting);
                call.arg("0-0").arg(1).arg(1).arg(who).arg(LASTS_MS);
                let told: (Option<Vec<u8>>, i64, Vec<String>, u8) = redis.script(&call).await.unwrap();
                told.3 == 1
            }
            2 => {
                let mut call = prolong.prepare_invoke();
                call.key(&duty).arg(who).arg(LASTS_MS);
                redis.script::<u64>(&call).await.unwrap() == 1
            }
            _ => {
                let mut call = landed.prepare_invoke();
                call.key(&duty).key(&waiting).key(&log).arg(who).arg(1_000).arg("landed");
                redis.script::<u64>(&call).await.unwrap();
                let before = std::mem::replace(&mut told, redis.command::<u64>(&length).await.unwrap());
                told > before
            }
        };
        assert_eq!(did, expected, "{model:?} after {what} by {who}, step {step}");
    }
    assert!(told > 20, "{told}");
}
