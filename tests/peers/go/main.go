// A plain Go consumer, as one would write it by hand: franz-go, pgx and COPY. It is here to be measured against.
//
// Batches of up to 10,000 records go into the events table in one transaction, and the group's offsets are committed
// after it: at least once. With PEER_UNIQUE=true the rows pass through a temporary table, and those whose key is
// there already are left out.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	maxBatch = 10_000
	// How long to go on gathering when there is less than a full batch.
	linger = 20 * time.Millisecond
)

type event struct {
	EventType string          `json:"event_type"`
	UserID    uuid.UUID       `json:"user_id"`
	Service   string          `json:"service"`
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	// After so many stored records it says so and waits for its end, so that its CPU time can be read.
	limit, err := strconv.Atoi(os.Getenv("PEER_EVENTS"))
	if err != nil {
		return fmt.Errorf("PEER_EVENTS: %w", err)
	}
	unique := os.Getenv("PEER_UNIQUE") == "true"
	database, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer database.Close(context.Background())
	if unique {
		const staging = `CREATE TEMP TABLE staging (event_type varchar(100), user_id uuid, service varchar(100),
			"timestamp" timestamptz, data jsonb, event_key uuid) ON COMMIT DELETE ROWS`
		if _, err := database.Exec(ctx, staging); err != nil {
			return err
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("KAFKA_BROKERS")),
		kgo.ConsumeTopics(os.Getenv("KAFKA_TOPIC")),
		kgo.ConsumerGroup(os.Getenv("KAFKA_GROUP_ID")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		return err
	}
	defer client.Close()

	for stored := 0; stored < limit; {
		records, err := gather(ctx, client)
		if err != nil {
			return err
		}
		rows, err := decode(records, unique)
		if err != nil {
			return err
		}
		if err := write(ctx, database, rows, unique); err != nil {
			return err
		}
		if err := client.CommitRecords(ctx, records...); err != nil {
			return err
		}
		stored += len(records)
	}
	fmt.Println("done")
	<-ctx.Done()
	return nil
}

// gather waits for records, and then for a full batch as long as more keep coming.
func gather(ctx context.Context, client *kgo.Client) ([]*kgo.Record, error) {
	var batch []*kgo.Record
	for len(batch) < maxBatch {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if len(batch) > 0 {
			wait, cancel = context.WithTimeout(ctx, linger)
		}
		fetches := client.PollRecords(wait, maxBatch-len(batch))
		late := wait.Err() != nil
		cancel()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, failed := range fetches.Errors() {
			if !errors.Is(failed.Err, context.DeadlineExceeded) {
				return nil, failed.Err
			}
		}
		batch = append(batch, fetches.Records()...)
		if late {
			break
		}
	}
	return batch, nil
}

func decode(records []*kgo.Record, unique bool) ([][]any, error) {
	rows := make([][]any, 0, len(records))
	for _, record := range records {
		var e event
		if err := json.Unmarshal(record.Value, &e); err != nil {
			return nil, fmt.Errorf("partition %d, offset %d: %w", record.Partition, record.Offset, err)
		}
		row := []any{e.EventType, [16]byte(e.UserID), e.Service, e.Timestamp, []byte(e.Data)}
		if unique {
			row = append(row, key(&e, record.Value))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// key is ordered by time, as the consumer's is, so that the unique index costs both the same.
func key(e *event, payload []byte) [16]byte {
	var id [16]byte
	hash := sha256.Sum256(payload)
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(e.Timestamp.UnixMilli()))
	copy(id[:6], millis[2:])
	copy(id[6:], hash[:10])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

func write(ctx context.Context, database *pgx.Conn, rows [][]any, unique bool) error {
	columns := []string{"event_type", "user_id", "service", "timestamp", "data"}
	table := pgx.Identifier{"events"}
	if unique {
		columns, table = append(columns, "event_key"), pgx.Identifier{"staging"}
	}
	return pgx.BeginFunc(ctx, database, func(tx pgx.Tx) error {
		if _, err := tx.CopyFrom(ctx, table, columns, pgx.CopyFromRows(rows)); err != nil {
			return err
		}
		if !unique {
			return nil
		}
		const insert = `INSERT INTO events (event_type, user_id, service, "timestamp", data, event_key)
			SELECT event_type, user_id, service, "timestamp", data, event_key FROM staging
			ON CONFLICT (event_key) DO NOTHING`
		_, err := tx.Exec(ctx, insert)
		return err
	})
}
