# Apache Kafka as its jars from Maven Central, and an archive of its parsed classes, which saves a third of the
# processor time of every start.
build() {
  run_with_progress "$1/build.log" mvn --batch-mode -Dstyle.color=never --file "$here/kafka/pom.xml" -Dkafka.version="$kafka" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/libs"
  [ -n "$(find "$1/libs" -name 'kafka_2.13-*.jar')" ] || fail "Maven copied no broker, see $1/build.log"
  # Only faster, so not worth failing for; a Java that did not write the archive ignores it, too.
  run_with_progress "$1/archive.log" archive_classes "$1" || say "goes without an archive of classes"
}

# Runs a broker for as long as it takes to start, and has Java write down the classes that it has loaded. The class
# path is relative, since the archive holds for one class path only and this folder is yet to be renamed.
archive_classes() (
  cd "$1" || exit
  port=$((28000 + RANDOM % 4000))
  printf '%s\n' >archive.properties process.roles=broker,controller node.id=1 controller.listener.names=CONTROLLER \
    "controller.quorum.voters=1@127.0.0.1:$((port + 1))" "log.dirs=$1/data" \
    "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))"
  java -cp 'libs/*' kafka.tools.StorageTool format --cluster-id dGVzdGJlZHRlc3RiZWQxMg --config archive.properties
  java -XX:+UseSerialGC -XX:ArchiveClassesAtExit=classes.jsa -cp 'libs/*' kafka.Kafka archive.properties &
  for _ in $(seq 300); do
    sleep 0.2
    grep --quiet 'Kafka Server started' archive.log && break
  done
  kill $!
  wait $! || true
  rm -r data archive.properties
  [ -s classes.jsa ]
)
cached kafka "$kafka" build
