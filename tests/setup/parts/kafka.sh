# Apache Kafka as its jars from Maven Central.
build() {
  run_with_progress "$1/build.log" mvn --batch-mode --file "$here/kafka/pom.xml" -Dkafka.version="$kafka" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/libs"
  [ -n "$(find "$1/libs" -name 'kafka_2.13-*.jar')" ] || fail "Maven copied no broker, see $1/build.log"
}
cached kafka "$kafka" build
