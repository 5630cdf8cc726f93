# Image of the product: both programs and the libraries that they load, an unprivileged user, no shell.
# `cargo xtask image` makes the same image without Docker.
#
#   docker build --tag phase6:dev .

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package phase6-cli --package phase6-operator --features phase6-cli/cluster

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /source/target/release/phase6 /source/target/release/phase6-operator /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/phase6"]
