# The one image: the consumer and the controller, run by the pods' own commands.
#
#   docker build --tag analytics-pipeline .                          compiles in a builder image
#   docker build --build-arg BINARIES=prebuilt --tag … <folder>      takes <folder>/prebuilt/* instead
#
# The base must have the C library that the binaries were linked against, libgcc, OpenSSL 3 and certificates.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG BINARIES=compiled

FROM ${BUILDER} AS compiled
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin analytics-consumer --bin analytics-controller \
 && mkdir /binaries \
 && strip --strip-debug -o /binaries/analytics-consumer target/release/analytics-consumer \
 && strip --strip-debug -o /binaries/analytics-controller target/release/analytics-controller

FROM scratch AS prebuilt
COPY prebuilt/ /binaries/

FROM ${BINARIES} AS binaries

FROM ${BASE}
COPY --from=binaries /binaries/ /usr/local/bin/
USER 65532:65532
