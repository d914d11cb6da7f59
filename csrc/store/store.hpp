// One idea: the writer of one shard. Blocks go in from any thread; in the background one thread writes them,
// in order, and another makes durable what is written, so that copying and the disk do not wait for each
// other.
//
// A block is atomic: after a crash at any instant all of its rows are in the store or none is. Damaged blocks
// are excluded when the shard is opened: their rows become a hole, which the next block that fits fills.
// FORMAT.md says how. A writer belongs to the process that opened it: a child of fork() has neither its
// threads nor, perhaps, its mutexes in a usable state, and is refused.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/parallel.hpp"
#include "score/unitsum.hpp"
#include "store/journal.hpp"

namespace learnalign {

// How much of the rows is compared with its checksums when a shard is opened: what a power cut could have
// touched, or all.
enum class Verify { recent, everything };

class StoreWriter {
  public:
    // `index_descriptor` is the shard's index, opened for writing and locked by the caller; it is duplicated.
    // At most `queue_bytes` of encoded rows wait (one block may be larger). Recovers what a crash left behind
    // and sets damaged blocks aside.
    StoreWriter(std::string directory, int index_descriptor, ShardShape shape, uint64_t queue_bytes,
                Verify verify, const Poll& poll);
    ~StoreWriter();
    StoreWriter(const StoreWriter&) = delete;
    StoreWriter& operator=(const StoreWriter&) = delete;

    // False in a child of the process that opened the writer. Only this may be asked there, and the object
    // must not be destroyed.
    bool is_ours() const noexcept;
    // Throws Error(store) in such a child, as do append(), flush() and close().
    void refuse_child() const;

    uint64_t committed_rows();

    // Encodes `phi` [rows, dimension] and queues it as one block; waits while the queue is full. Throws if,
    // and only if, the block was not queued. The error of an earlier block surfaces here, in flush() or in
    // close(), and nothing is written after it.
    void append(const std::vector<std::string>& ids, const double* success_rate, const float* phi,
                const Poll& poll);
    void flush(const Poll& poll);  // returns when every appended block is durable
    void close(const Poll& poll);  // flush, then the sum of the rows, the final header and name
    void stop() noexcept;  // commits what is queued, leaves the shard unfinished, lets go of the files

  private:
    struct Pending {
        RowTable table;
        std::unique_ptr<uint8_t[]> data;
        uint64_t bytes;
        uint64_t first_row;
    };

    // What is written and will be committed together.
    struct Group {
        std::string records;
        uint64_t rows = 0;
        uint64_t bytes = 0;
    };

    std::string data_path(bool finished) const;
    std::string sum_path() const;
    void recover(Verify verify, const Poll& poll);
    bool is_finished() const;
    void begin_writing();
    void begin_again();
    void begin_index();
    uint64_t place(uint64_t rows);
    Pending encode(const std::vector<std::string>& ids, const double* success_rate, const float* phi,
                   const Poll& poll) const;
    void wait_until_idle(const Poll& poll);
    void start_threads();
    void write_blocks();
    std::string write_block(const Pending& block);
    void add_to_sum(const Pending& block, const std::string& record);
    void commit_groups();
    void commit(const Group& group);
    void fail(const char* reason) noexcept;
    void fail_locked(const char* reason) noexcept;
    void finish(const Poll& poll);
    std::string sum_again(const Poll& poll) const;
    void write_sum(const std::string& bytes) const;
    void clear_holes();
    void end_threads() noexcept;
    void release() noexcept;
    void refuse_if_failed() const;

    const pid_t process_;
    const std::string directory_;
    const ShardShape shape_;
    const uint64_t queue_bytes_;
    File index_file_;
    File data_file_;
    ShardIndex index_;           // as recovered
    bool finished_ = false;      // the shard on disk is complete
    bool out_of_order_ = false;  // there were holes, so that records may follow each other in another order
    uint64_t index_end_ = 0;     // where the next record goes; the committing thread's once it runs
    // The writing thread's once it runs:
    bool summing_ = false;           // the shard was empty, so that the rows come in their order
    std::optional<RunningSum> sum_;  // of the rows written
    uint32_t summed_ = 0;            // digest of their records

    std::mutex closing_;  // held by close() and stop(); taken before mutex_
    std::mutex mutex_;    // guards everything below
    std::condition_variable changed_;
    std::deque<Pending> queue_;
    Group written_;
    uint64_t waiting_bytes_ = 0;     // queued or being written
    uint64_t uncommitted_rows_ = 0;  // appended, in any state
    std::vector<RowRange> holes_;
    uint64_t end_row_ = 0;  // where a block goes that fits no hole
    uint64_t committed_rows_ = 0;
    bool ending_ = false;
    bool writing_ended_ = false;
    bool failed_ = false;
    std::string failure_;
    std::thread writing_, committing_;
};

}  // namespace learnalign
