//! Cost of the identity of a request: an API key among 10,000, and an assertion of another service, signed and
//! verified. A request without credentials, where none are required, is the baseline.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use phase6_identity::{ApiKey, InternalToken, KeyFile, Keys, Principal, Role};

const KEYS: usize = 10_000;

fn benchmark(criterion: &mut Criterion) {
    let principal = |number: usize| Principal {
        tenant: format!("tenant-{}", number % 100).parse().expect("a name"),
        subject: format!("subject-{number}").parse().expect("a name"),
        role: Role::Member,
    };
    let mut file = KeyFile::default();
    let secrets: Vec<ApiKey> = (0..KEYS).map(|_| ApiKey::random()).collect();
    for (number, key) in secrets.iter().enumerate() {
        file.add(principal(number), key.digest());
    }
    let mut group = criterion.benchmark_group("identity");
    let open = Keys::none();
    group.bench_function("none", |bencher| bencher.iter(|| open.authenticate(black_box(None))));
    let keys = Keys::fixed(file);
    let mut next = secrets.iter().cycle();
    group.bench_function("key", |bencher| {
        bencher.iter(|| {
            let key = next.next().expect("there are keys");
            keys.authenticate(black_box(Some(key.secret().as_bytes())))
        });
    });
    let token = InternalToken::random();
    let (ada, now) = (principal(7), Timestamp::now());
    group.bench_function("sign", |bencher| bencher.iter(|| token.sign(black_box(&ada), black_box(now))));
    let assertion = token.sign(&ada, now);
    group.bench_function("verify", |bencher| {
        bencher.iter(|| token.verify(black_box(&assertion), black_box(now)));
    });
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
