#include "store/store.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <system_error>
#include <utility>

#include "common/error.hpp"
#include "common/floats.hpp"
#include "store/crc32c.hpp"
#include "store/encode.hpp"
#include "store/sumfile.hpp"

namespace learnalign {
namespace {

constexpr uint64_t checked_on_resume = uint64_t{64} << 20;
constexpr uint64_t encoded_between_polls = uint64_t{4} << 20;
constexpr uint64_t largest_group = uint64_t{128} << 20;  // bytes of rows that share one pair of syncs

std::string shard_stem(uint64_t shard) {
    char name[32];
    std::snprintf(name, sizeof(name), "shard-%05llu", static_cast<unsigned long long>(shard));
    return name;
}

}  // namespace

StoreWriter::StoreWriter(std::string directory, int index_descriptor, ShardShape shape, uint64_t queue_bytes,
                         Verify verify, const Poll& poll)
    : process_(::getpid()), directory_(std::move(directory)), shape_(shape), queue_bytes_(queue_bytes) {
    index_file_ = File::duplicate(index_descriptor, directory_ + "/" + shard_stem(shape.shard) + ".index");
    index_file_.take_lock();
    recover(verify, poll);
}

StoreWriter::~StoreWriter() {
    stop();
}

bool StoreWriter::is_ours() const noexcept {
    return ::getpid() == process_;
}

void StoreWriter::refuse_child() const {
    if (is_ours()) return;
    throw Error(ErrorKind::store, directory_ + " was opened for writing by process " +
                                      std::to_string(process_) + ", and this is its fork " +
                                      std::to_string(::getpid()) +
                                      ": write there, or open the store here when that one has closed it");
}

std::string StoreWriter::data_path(bool finished) const {
    return directory_ + "/" + shard_stem(shape_.shard) + (finished ? ".npy" : ".npy.unfinished");
}

std::string StoreWriter::sum_path() const {
    return directory_ + "/" + shard_stem(shape_.shard) + ".sum";
}

// Finds out what is committed and intact. The files of a complete shard stay as they are until a block is
// appended.
void StoreWriter::recover(Verify verify, const Poll& poll) {
    index_ = read_index(index_file_, shape_);
    const bool final_name = file_exists(data_path(true));
    if (final_name && file_exists(data_path(false))) {
        throw Error(ErrorKind::store, directory_ + " holds both " + shard_stem(shape_.shard) + ".npy and " +
                                          shard_stem(shape_.shard) +
                                          ".npy.unfinished: delete the one that does not belong");
    }
    if (final_name || file_exists(data_path(false))) {
        data_file_ = File::open(data_path(final_name), O_RDWR);
        index_.drop(index_.beyond(data_file_.size()));
        size_t first = verify == Verify::everything ? 0 : index_.blocks.size();
        for (uint64_t seen = 0; first > 0 && seen < checked_on_resume;) {
            seen += index_.blocks[--first].place.rows() * shape_.row_bytes();
        }
        index_.drop(damaged_blocks(data_file_, index_, first, poll));
    } else if (index_.rows() > 0) {
        throw Error(ErrorKind::store, data_path(true) + " is missing although its index lists " +
                                          std::to_string(index_.rows()) +
                                          " rows: restore it or delete the store");
    }
    committed_rows_ = index_.rows();
    end_row_ = index_.end_row();
    holes_ = index_.holes();
    summing_ = committed_rows_ == 0;
    index_.table = {};  // can be large, and is of no use to a writer
    finished_ = final_name && is_finished();
    if (!finished_) begin_writing();
}

bool StoreWriter::is_finished() const {
    const std::string header = data_header(end_row_, shape_.dimension, shape_.dtype);
    if (!index_.closed || data_file_.size() != data_header_bytes + end_row_ * shape_.row_bytes())
        return false;
    std::string found(header.size(), '\0');
    data_file_.read_at(0, found.data(), found.size());
    const bool summed =
        committed_rows_ == 0 || read_sum(sum_path(), shape_.dimension, index_.digest).has_value();
    return found == header && summed;
}

// Brings both files to "committed rows, nothing else, unfinished", whatever state they are in. The index is
// cut before the data, so that at no instant it names rows that are gone.
void StoreWriter::begin_writing() {
    const bool is_new = index_file_.size() < index_header_bytes;
    if (!is_new) begin_index();
    if (!data_file_.is_open()) data_file_ = File::open(data_path(false), O_RDWR | O_CREAT);
    if (file_exists(data_path(true))) {
        rename_file(data_path(true), data_path(false));
        data_file_.moved_to(data_path(false));
    }
    remove_file(sum_path());
    const uint64_t data_end = data_header_bytes + end_row_ * shape_.row_bytes();
    if (data_file_.size() != data_end) data_file_.truncate(data_end);
    const std::string header = data_header(0, shape_.dimension, shape_.dtype);
    data_file_.write_at(0, header.data(), header.size());
    data_file_.sync();
    if (is_new) {
        const std::string begin = index_header(shape_);
        index_file_.truncate(0);
        index_file_.write_at(0, begin.data(), begin.size());
        index_file_.sync();
        index_end_ = begin.size();
    }
    sync_directory(directory_);
    out_of_order_ = !holes_.empty();
    finished_ = false;
}

// Leaves the records of the intact blocks in the index and nothing else.
void StoreWriter::begin_index() {
    index_end_ = index_.records_end();
    if (index_end_ == 0) {
        index_file_ = rewrite_index(index_file_, index_);
        sync_directory(directory_);
        index_end_ = index_file_.size();
    } else if (index_file_.size() != index_end_) {
        index_file_.truncate(index_end_);
        index_file_.sync();
    }
}

uint64_t StoreWriter::committed_rows() {
    refuse_child();
    const std::lock_guard lock(mutex_);
    return committed_rows_;
}

void StoreWriter::refuse_if_failed() const {
    if (failed_) throw Error(ErrorKind::store, failure_);
}

StoreWriter::Pending StoreWriter::encode(const std::vector<std::string>& ids, const double* success_rate,
                                         const float* phi, const Poll& poll) const {
    const size_t rows = ids.size();
    const uint64_t row_bytes = shape_.row_bytes();
    uint64_t bytes;
    if (__builtin_mul_overflow(static_cast<uint64_t>(rows), row_bytes, &bytes)) {
        throw Error(ErrorKind::array,
                    "a block of " + std::to_string(rows) + " rows is too large: append fewer");
    }
    // Not filled with zeros first: touching new memory takes as long as encoding into it.
    Pending block{{}, std::make_unique_for_overwrite<uint8_t[]>(bytes), bytes, 0};
    block.table.success_rate.assign(success_rate, success_rate + rows);
    const Simd path = simd_path();
    uint64_t encoded = 0;
    for (size_t i = 0; i < rows; ++i) {
        const RowFacts facts = encode_row(phi + i * shape_.dimension, static_cast<int64_t>(shape_.dimension),
                                          shape_.dtype, path, block.data.get() + i * row_bytes);
        block.table.norm.push_back(facts.norm);
        block.table.scale.push_back(facts.scale);
        block.table.ids += ids[i];
        block.table.id_ends.push_back(block.table.ids.size());
        if ((encoded += row_bytes) >= encoded_between_polls) {
            encoded = 0;
            poll();
        }
    }
    return block;
}

// Where a block goes: the lowest hole that holds it, else the end. Rows computed again in their first order
// and blocks thus come to lie where they were.
uint64_t StoreWriter::place(uint64_t rows) {
    for (RowRange& hole : holes_) {
        if (hole.rows() < rows) continue;
        hole.first += rows;
        return hole.first - rows;
    }
    end_row_ += rows;
    return end_row_ - rows;
}

void StoreWriter::append(const std::vector<std::string>& ids, const double* success_rate, const float* phi,
                         const Poll& poll) {
    refuse_child();
    if (ids.empty()) return;
    const IeeeFloats ieee;
    Pending block = encode(ids, success_rate, phi, poll);
    const uint64_t bytes = block.bytes;
    std::unique_lock lock(mutex_);
    const auto has_room = [&] {
        return failed_ || waiting_bytes_ == 0 || waiting_bytes_ + bytes <= queue_bytes_;
    };
    while (!changed_.wait_for(lock, poll_interval, has_room)) {
        lock.unlock();
        poll();
        lock.lock();
    }
    refuse_if_failed();
    if (ending_) throw Error(ErrorKind::store, directory_ + " is closed: open the store again to append");
    if (finished_) begin_again();
    start_threads();
    queue_.push_back(std::move(block));
    queue_.back().first_row = place(ids.size());
    waiting_bytes_ += bytes;
    uncommitted_rows_ += ids.size();
    changed_.notify_all();
}

// From here on the shard on disk is incomplete, whether this comes to its end or not: then it stays so, and
// close() says it.
void StoreWriter::begin_again() {
    finished_ = false;
    try {
        begin_writing();
    } catch (const std::exception& error) {
        fail_locked(error.what());
        throw;
    }
}

void StoreWriter::start_threads() {
    const auto start = [this](std::thread& thread, void (StoreWriter::*work)()) {
        if (thread.joinable()) return;
        thread = std::thread([this, work] {
            const IeeeFloats ieee;
            try {
                (this->*work)();
            } catch (const std::exception& error) {
                fail(error.what());
            }
        });
    };
    try {
        start(writing_, &StoreWriter::write_blocks);
        start(committing_, &StoreWriter::commit_groups);
    } catch (const std::system_error& error) {
        throw Error(ErrorKind::store, "the system refuses a thread to write " + directory_ + " with (" +
                                          error.what() +
                                          "): end other processes or raise the limit (ulimit -u)");
    }
}

// A block's memory has room for another once it is written. Where the disk does not follow, the queue fills
// up.
void StoreWriter::write_blocks() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [&] {
            return failed_ || (written_.bytes < largest_group && (ending_ || !queue_.empty()));
        });
        if (failed_) return;
        if (queue_.empty()) break;
        const Pending block = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        const std::string record = write_block(block);
        lock.lock();
        written_.records += record;
        written_.rows += block.table.rows();
        written_.bytes += block.bytes;
        waiting_bytes_ -= block.bytes;
        changed_.notify_all();
    }
    writing_ended_ = true;
    changed_.notify_all();
}

// Returns the record that will make its rows count.
std::string StoreWriter::write_block(const Pending& block) {
    data_file_.write_at(data_header_bytes + block.first_row * shape_.row_bytes(), block.data.get(),
                        block.bytes);
    std::string record = block_record(block.table, block.first_row, crc32c(block.data.get(), block.bytes));
    if (summing_) add_to_sum(block, record);
    return record;
}

void StoreWriter::add_to_sum(const Pending& block, const std::string& record) {
    if (!sum_) {
        const std::string header = index_header(shape_);
        summed_ = extend_digest(0, header.data() + header.size());
        sum_.emplace(shape_.dtype, static_cast<int64_t>(shape_.dimension));
    }
    sum_->add(block.data.get(), static_cast<int64_t>(block.table.rows()), block.table.success_rate.data());
    summed_ = extend_digest(summed_, record.data() + record.size());
}

// What was written while one group was committed is the next: a slow producer has every block committed at
// once, a fast one waits for few syncs. A disk with a cache may begin to work only when it is asked to sync,
// so that a sync beside the writing costs less than one behind it.
void StoreWriter::commit_groups() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [&] { return failed_ || writing_ended_ || written_.rows > 0; });
        if (failed_ || written_.rows == 0) return;
        const Group group = std::exchange(written_, {});
        changed_.notify_all();
        lock.unlock();
        commit(group);
        lock.lock();
        committed_rows_ += group.rows;
        uncommitted_rows_ -= group.rows;
        changed_.notify_all();
    }
}

// The rows reach the disk before the records that make them count.
void StoreWriter::commit(const Group& group) {
    data_file_.sync();
    index_file_.write_at(index_end_, group.records.data(), group.records.size());
    index_file_.sync();
    index_end_ += group.records.size();
}

// Nothing more is written or committed; who waits for either hears of it.
void StoreWriter::fail(const char* reason) noexcept {
    const std::lock_guard lock(mutex_);
    fail_locked(reason);
}

void StoreWriter::fail_locked(const char* reason) noexcept {
    if (failed_) return;
    failed_ = true;
    failure_ = reason;
    queue_.clear();
    changed_.notify_all();
}

void StoreWriter::wait_until_idle(const Poll& poll) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, poll_interval, [&] { return failed_ || uncommitted_rows_ == 0; })) {
        lock.unlock();
        poll();
        lock.lock();
    }
    refuse_if_failed();
}

void StoreWriter::flush(const Poll& poll) {
    refuse_child();
    wait_until_idle(poll);
}

void StoreWriter::close(const Poll& poll) {
    refuse_child();
    const IeeeFloats ieee;
    const std::lock_guard one_at_a_time(closing_);
    if (!index_file_.is_open()) return;
    try {
        wait_until_idle(poll);
        end_threads();
        refuse_if_failed();
        if (!finished_) finish(poll);
    } catch (...) {
        release();
        throw;
    }
    release();
}

void StoreWriter::finish(const Poll& poll) {
    clear_holes();
    std::string sum;  // of a shard with rows
    if (committed_rows_ > 0) sum = sum_ ? sum_bytes(sum_->take(), summed_) : sum_again(poll);
    const std::string header = data_header(end_row_, shape_.dimension, shape_.dtype);
    data_file_.write_at(0, header.data(), header.size());
    data_file_.sync();
    rename_file(data_path(false), data_path(true));
    if (out_of_order_) {
        index_file_ = rewrite_index(index_file_, read_index(index_file_, shape_));
        index_end_ = index_file_.size();
    }
    if (!sum.empty()) write_sum(sum);
    sync_directory(directory_);
    const std::string record = closing_record(end_row_, crc32c(header.data(), header.size()));
    index_file_.write_at(index_end_, record.data(), record.size());
    index_file_.sync();
    finished_ = true;
}

// The sum of a shard whose first rows another writer wrote, or that was repaired.
std::string StoreWriter::sum_again(const Poll& poll) const {
    const ShardIndex index = read_index(index_file_, shape_);
    const uint64_t row_bytes = shape_.row_bytes(),
                   most = std::max<uint64_t>(1, (uint64_t{1} << 20) / row_bytes);
    RunningSum sum(shape_.dtype, static_cast<int64_t>(shape_.dimension));
    std::vector<uint8_t> rows(most * row_bytes);
    const double* success_rate = index.table.success_rate.data();
    for (const Block& block : index.blocks) {
        uint32_t crc = 0;
        for (uint64_t row = block.place.first, part; row < block.place.end; row += part) {
            part = std::min(most, block.place.end - row);
            data_file_.read_at(data_header_bytes + row * row_bytes, rows.data(), part * row_bytes);
            crc = crc32c(rows.data(), part * row_bytes, crc);
            sum.add(rows.data(), static_cast<int64_t>(part), success_rate);
            success_rate += part;
            poll();
        }
        if (crc != block.data_crc) {
            throw Error(
                ErrorKind::corrupt,
                data_file_.path() + ": rows " + std::to_string(block.place.first) + " to " +
                    std::to_string(block.place.end - 1) +
                    " do not match their checksum: 'learnalign check RUN --repair' sets them aside, and "
                    "the same command goes on");
        }
    }
    return sum_bytes(sum.take(), index.digest);
}

void StoreWriter::write_sum(const std::string& bytes) const {
    const std::string partial = sum_path() + ".partial";
    const File file = File::open(partial, O_WRONLY | O_CREAT | O_TRUNC);
    file.write_at(0, bytes.data(), bytes.size());
    file.sync();
    rename_file(partial, sum_path());
}

// What no block filled is zeros, not the damaged rows of before.
void StoreWriter::clear_holes() {
    const std::vector<uint8_t> zeros(uint64_t{1} << 20);
    for (const RowRange& hole : holes_) {
        const uint64_t end = data_header_bytes + hole.end * shape_.row_bytes();
        for (uint64_t at = data_header_bytes + hole.first * shape_.row_bytes(); at < end;) {
            const size_t part = std::min<uint64_t>(end - at, zeros.size());
            data_file_.write_at(at, zeros.data(), part);
            at += part;
        }
    }
}

void StoreWriter::stop() noexcept {
    if (!is_ours()) return;
    const std::lock_guard one_at_a_time(closing_);
    release();
}

void StoreWriter::end_threads() noexcept {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
        changed_.notify_all();
    }
    if (writing_.joinable()) writing_.join();
    if (committing_.joinable()) committing_.join();
}

void StoreWriter::release() noexcept {
    end_threads();
    data_file_.close();
    index_file_.close();
}

}  // namespace learnalign
