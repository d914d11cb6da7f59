// The store for Python: writers that belong to their process, and the indexes of shards. No file is read or
// written here.
#include <fcntl.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bind/interpreter.hpp"
#include "store/crc32c.hpp"
#include "store/files.hpp"
#include "store/journal.hpp"
#include "store/store.hpp"
#include "store/sumfile.hpp"

namespace learnalign {
namespace {

Dtype dtype_named(const std::string& name) {
    if (name == "float16") return Dtype::float16;
    if (name == "int8") return Dtype::int8;
    if (name == "float32") return Dtype::float32;
    throw Error(ErrorKind::store, "a store's dtype must be float16, int8 or float32, found \"" + name + "\"");
}

py::list ids_of(const RowTable& table, const std::string& where) {
    py::list ids(table.rows());
    uint64_t begin = 0;
    for (size_t i = 0; i < table.rows(); ++i) {
        PyObject* id = PyUnicode_DecodeUTF8(table.ids.data() + begin,
                                            static_cast<py::ssize_t>(table.id_ends[i] - begin), "strict");
        if (id == nullptr) {
            PyErr_Clear();
            throw Error(ErrorKind::corrupt,
                        where + ": the prompt id of row " + std::to_string(i) + " is not UTF-8");
        }
        PyList_SET_ITEM(ids.ptr(), static_cast<py::ssize_t>(i), id);
        begin = table.id_ends[i];
    }
    return ids;
}

// The index of one shard, cut to what its data file holds.
struct Shard {
    std::string index_path;
    ShardIndex index;
    RowTable missing;  // rows that the data file is too short for
};

constexpr int no_file = -1;

Shard read_shard(const std::string& index_path, int data_descriptor, uint64_t number, uint64_t dimension,
                 const std::string& dtype, uint32_t description_crc) {
    const ShardShape shape{number, dimension, dtype_named(dtype), description_crc};
    const Unlocked unlocked;
    Shard shard{index_path, read_index(File::open(index_path, O_RDONLY), shape), {}};
    const uint64_t data_bytes =
        data_descriptor == no_file ? 0 : File::duplicate(data_descriptor, index_path).size();
    shard.missing = shard.index.drop(shard.index.beyond(data_bytes));
    return shard;
}

std::vector<std::pair<uint64_t, uint64_t>> blocks_of(const Shard& shard) {
    std::vector<std::pair<uint64_t, uint64_t>> blocks;
    for (const Block& block : shard.index.blocks) blocks.emplace_back(block.place.first, block.place.end);
    return blocks;
}

std::vector<std::pair<uint64_t, uint64_t>> holes_of(const Shard& shard) {
    std::vector<std::pair<uint64_t, uint64_t>> holes;
    for (const RowRange& hole : shard.index.holes()) holes.emplace_back(hole.first, hole.end);
    return holes;
}

std::vector<std::pair<uint64_t, uint64_t>> bad_bytes_of(const Shard& shard) {
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (const ShardIndex::BadBytes& bad : shard.index.bad) ranges.emplace_back(bad.begin, bad.end);
    return ranges;
}

std::optional<Doubles> total_of(const Shard& shard, const std::string& sum_path) {
    if (!shard.index.closed) return std::nullopt;
    const auto total = read_sum(sum_path, shard.index.shape.dimension, shard.index.digest);
    if (!total) return std::nullopt;
    return array_of(*total);
}

std::vector<size_t> damage_of(const Shard& shard, int data_descriptor, const std::string& data_path) {
    if (shard.index.blocks.empty()) return {};
    const Unlocked unlocked;
    return damaged_blocks(File::duplicate(data_descriptor, data_path), shard.index, 0, poll_signals);
}

// Whether a block is the writer's. Python may learn of Ctrl-C at any time after it was queued, and must know.
struct Receipt {
    bool queued = false;
};

// In a child of fork() a writer is left as it is: its threads do not exist there, and its mutexes may be held
// for good. Its destructor may wait for the disk, and so runs without the interpreter lock.
struct LeftInChildren {
    void operator()(StoreWriter* writer) const {
        if (!writer->is_ours()) return;
        const Unlocked unlocked;
        delete writer;
    }
};

struct Writer {
    std::unique_ptr<StoreWriter, LeftInChildren> core;
    int64_t dimension;

    void append(const std::vector<std::string>& ids, const Doubles& success_rate,
                const py::array_t<float, py::array::c_style>& phi, Receipt& receipt) {
        const auto rows = static_cast<int64_t>(ids.size());
        const double* p = column(success_rate, rows, "success_rate");
        if (phi.ndim() != 2 || phi.shape(0) != rows || phi.shape(1) != dimension) {
            throw Error(ErrorKind::array, "phi must be float32 [" + std::to_string(rows) + ", " +
                                              std::to_string(dimension) + "]");
        }
        const float* data = phi.data();
        const Unlocked unlocked;
        core->append(ids, p, data, poll_signals);
        receipt.queued = true;
    }
    void flush() {
        const Unlocked unlocked;
        core->flush(poll_signals);
    }
    void close() {
        const Unlocked unlocked;
        core->close(poll_signals);
    }
    void stop() {
        const Unlocked unlocked;
        core->stop();
    }
};

Writer open_writer(const std::string& directory, int descriptor, uint64_t shard, uint64_t dimension,
                   const std::string& dtype, uint32_t description_crc, uint64_t queue_bytes,
                   bool verify_everything) {
    const ShardShape shape{shard, dimension, dtype_named(dtype), description_crc};
    const Unlocked unlocked;
    return {std::unique_ptr<StoreWriter, LeftInChildren>(
                new StoreWriter(directory, descriptor, shape, queue_bytes,
                                verify_everything ? Verify::everything : Verify::recent, poll_signals)),
            static_cast<int64_t>(dimension)};
}

}  // namespace

void bind_store(py::module_& m) {
    py::class_<Receipt>(m, "Receipt").def(py::init<>()).def_readonly("queued", &Receipt::queued);
    py::class_<Writer>(m, "StoreWriter")
        .def(py::init(&open_writer), py::arg("directory"), py::arg("index_descriptor"), py::arg("shard"),
             py::arg("dimension"), py::arg("dtype"), py::arg("description_crc"), py::arg("queue_bytes"),
             py::arg("verify_everything"))
        .def("append", &Writer::append, py::arg("prompt_ids"), py::arg("success_rate").noconvert(),
             py::arg("phi").noconvert(), py::arg("receipt"))
        .def("flush", &Writer::flush)
        .def("close", &Writer::close)
        .def("stop", &Writer::stop)
        .def("refuse_child", [](const Writer& self) { self.core->refuse_child(); })
        .def_property_readonly("committed_rows", [](Writer& self) { return self.core->committed_rows(); });

    py::class_<Shard>(m, "Shard")
        .def(py::init(&read_shard), py::arg("index_path"), py::arg("data_descriptor"), py::arg("shard"),
             py::arg("dimension"), py::arg("dtype"), py::arg("description_crc"))
        .def_property_readonly("rows", [](const Shard& self) { return self.index.rows(); })
        .def_property_readonly("end_row", [](const Shard& self) { return self.index.end_row(); })
        .def_property_readonly("closed", [](const Shard& self) { return self.index.closed; })
        .def_property_readonly("header_valid", [](const Shard& self) { return self.index.header_valid; })
        .def_property_readonly("digest", [](const Shard& self) { return self.index.digest; })
        .def_property_readonly("file_bytes", [](const Shard& self) { return self.index.file_bytes; })
        .def_property_readonly("blocks", &blocks_of)
        .def_property_readonly("holes", &holes_of)
        .def_property_readonly("bad_bytes", &bad_bytes_of)
        .def("prompt_ids", [](const Shard& self) { return ids_of(self.index.table, self.index_path); })
        .def("missing_ids", [](const Shard& self) { return ids_of(self.missing, self.index_path); })
        .def("success_rate", [](const Shard& self) { return array_of(self.index.table.success_rate); })
        .def("norm", [](const Shard& self) { return array_of(self.index.table.norm); })
        .def("scale", [](const Shard& self) { return array_of(self.index.table.scale); })
        .def("total", &total_of, py::arg("sum_path"))
        .def("damaged_blocks", &damage_of, py::arg("data_descriptor"), py::arg("data_path"));

    m.def("data_header", [](uint64_t rows, uint64_t dimension, const std::string& dtype) {
        return py::bytes(data_header(rows, dimension, dtype_named(dtype)));
    });
    m.def("crc32c", [](const py::bytes& bytes) {
        const std::string_view view(bytes);
        return crc32c(view.data(), view.size());
    });
}

}  // namespace learnalign
